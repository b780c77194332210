"""What a config becomes, and what each mode of the program does with it."""
