//! What every hot store does, whatever it is made of: each function is one behaviour.
