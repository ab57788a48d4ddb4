//! History: warm and what is not yet in warm, as one ordered stream, each row once.
