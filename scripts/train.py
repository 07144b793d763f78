"""Trains a model from a recipe: python scripts/train.py RECIPE.yaml [--option value ...]"""

from deit_hf.commands.train import main

if __name__ == "__main__":
    main()
