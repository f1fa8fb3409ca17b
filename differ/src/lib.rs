//! Finds where, and whether, two inference engines diverge.
