//! The MILS loop as a pure library: generator and scorer traits, pool, history, stop rules.
