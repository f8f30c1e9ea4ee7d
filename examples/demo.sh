#!/bin/sh
# The commands of `make demo`, one after the other. Needs `adts` on the PATH and no network.
set -eu
cd "$(dirname "$0")/.."
say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

stdlib=$(python -c 'import sysconfig; print(sysconfig.get_paths()["stdlib"])')
begin=$(date +%s)

# Real input: the Python standard library of this machine, held out by file.
say adts data prepare "$stdlib" --include '*.py' --exclude site-packages --out runs/data/stdlib.bin --holdout 0.1
say adts data baselines runs/data/stdlib.bin runs/data/stdlib-val.bin --json runs/data/baselines.json

# The main job: manifest in, trained model out.
say adts run examples/quickstart.yaml --fresh
say adts report runs/quickstart --baselines runs/data/baselines.json
say adts sample runs/quickstart --prompt 'def ' --tokens 300

cat <<TEXT

Done in $(($(date +%s) - begin)) s. In runs/quickstart: report.md, loss.png, checkpoints/ (with tensorboard/ in it), logs/.
Try next:
  . .venv/bin/activate
  adts run examples/quickstart.yaml --set training.steps=2000      # goes on from the last checkpoint
  adts run examples/quickstart.yaml --fresh --set zero.stage=3     # the same, sharded with FSDP2; press Ctrl-C, run it again
  adts render examples/quickstart.yaml                             # what the operator would create on Kubernetes
  tensorboard --logdir runs/quickstart/checkpoints/tensorboard
TEXT
