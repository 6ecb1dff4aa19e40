"""What `signlang.describe` is made of: a data set comes in, a data card goes out."""
