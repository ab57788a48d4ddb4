//! What a processor knows of one partition at one offset: which records are repeats, and the bars
//! that are still being formed. A pure function of the log, so that the processor, history and
//! gateways all derive the same from the same records.
