//! Text generators for MILS on llama.cpp.
