"""The command line `asm-daemon`, a module for each kind of thing an operator does. `console` is what they share."""
