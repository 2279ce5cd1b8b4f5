//! Model packs: what they name, where they are, and the bundled demo pack.
