#!/usr/bin/env bash
# The main example on a fresh machine: bash scripts/quickstart.sh
# Makes .venv and installs this package. Trains three models on scikit-learn's handwritten digits (no download): a small
# convnet, a small plain DeiT, and the same DeiT with a distillation token and the convnet as teacher. Then compares them.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ ! -x .venv/bin/python ]; then
  "${PYTHON:-python3}" -m venv .venv
fi
.venv/bin/python -m pip install --quiet --upgrade-strategy only-if-needed -e ".[digits,viz]"

run() { printf '\n== %s\n' "$1"; shift; .venv/bin/python "$@"; }

export TOKENIZERS_PARALLELISM=false
export OMP_NUM_THREADS=1  # small models run faster on one thread, and the data loader uses the other core
run "1/5 teacher: a ResNet of timm, from scratch" scripts/train.py scripts/recipes/quickstart-teacher.yaml --overwrite_output_dir true
run "2/5 plain DeiT" scripts/train.py scripts/recipes/quickstart-plain.yaml --overwrite_output_dir true
run "3/5 DeiT with distillation token, hard distillation" scripts/train.py scripts/recipes/quickstart-distilled.yaml --overwrite_output_dir true
run "4/5 results" scripts/compare.py outputs/quickstart/teacher outputs/quickstart/plain outputs/quickstart/distilled
run "5/5 one image, in plain transformers" - <<'PYTHON'
from PIL import Image
from sklearn.datasets import load_digits
from transformers import pipeline

digits = load_digits()
Image.fromarray((digits.images[7] * 15.9).astype("uint8")).resize((64, 64)).save("outputs/quickstart/digit.png")
classify = pipeline("image-classification", model="outputs/quickstart/distilled")
best = classify("outputs/quickstart/digit.png")[0]
print(f"outputs/quickstart/digit.png is a {digits.target[7]}; the distilled DeiT predicts {best['label']} ({best['score']:.1%})")
PYTHON
printf '\nWritten under outputs/quickstart/:\n'
ls -d outputs/quickstart/*.png outputs/quickstart/*/{model.safetensors,recipe.yaml,README.md,training_curves.png}
