"""A table of finished runs: python scripts/compare.py OUTPUT_DIR..."""

from deit_hf.commands.compare import main

if __name__ == "__main__":
    main()
