"""What a file of a model is, in plain words, without building the model: `dinosr inspect`.

One module for each family of files; ``describe`` chooses among them. Nothing in a file is run.
"""
