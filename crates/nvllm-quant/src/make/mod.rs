//! Dense weights in a quantised format.
