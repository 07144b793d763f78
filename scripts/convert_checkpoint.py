"""Official, timm or mmpretrain checkpoint to a model directory: python scripts/convert_checkpoint.py FILE DIR"""

from deit_hf.commands.convert import main

if __name__ == "__main__":
    main()
