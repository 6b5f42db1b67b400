"""Pure x86-64: decode, encode, assemble. Bytes in, answers out."""
