//! The CPU backend: fast, and the executable specification of every op.
