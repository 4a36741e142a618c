"""dm-verity: a hash tree over an image, whose root hash says what every block of it is.

`format` has the superblock and where things lie, `tree` verifies, `build` makes.

Kind: pure
"""
