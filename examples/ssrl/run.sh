#!/usr/bin/env bash
# SSRL on recordings of unknown speakers: DINO, k-means, SSRL; then the speaker of every recording.
#   ./examples/ssrl/run.sh DATA CLUSTERS OUT [FIELD...]
# DATA: folder with train.tsv (`dinosr manifest folder AUDIO --valid-share 0 --out DATA`). CLUSTERS: first clusters,
# about 1.3 times the expected number of speakers. OUT: a new folder; with an existing one the run resumes. FIELDs
# (common.fp16=true ...) override the settings of both trainings.
# Environment variables (default): SIZE of the configs (tiny; ecapa: the paper's); DINO_BATCH, SSRL_BATCH, recordings in
# a batch (64, 32); DINO_UPDATES (500); FIXED_EPOCHS with the first clusters, SSRL_EPOCHS, which include them (12, 32);
# EVAL, a manifest of other recordings whose folders name the speakers: error rates and a page about the model (none).
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,9s/^# //p' "$0" >&2; exit 2; }
source "$(dirname "$0")/../signals.sh" "$@"
data=$1 clusters=$2 out=$3
shift 3
size=${SIZE:-tiny} dino_batch=${DINO_BATCH:-64} ssrl_batch=${SSRL_BATCH:-32} dino_updates=${DINO_UPDATES:-500}
fixed=${FIXED_EPOCHS:-12} epochs=${SSRL_EPOCHS:-32}
rows=$(($(wc -l < "$data/train.tsv") - 1))  # the first line is the folder
dino_epoch=$((rows / dino_batch)) ssrl_epoch=$((rows / ssrl_batch))  # updates
for name in DINO SSRL; do
    batch=${name,,}_batch
    [ $rows -ge ${!batch} ] ||
        { echo "$data/train.tsv has $rows recordings; set ${name}_BATCH to $rows or less" >&2; exit 2; }
done
mkdir -p "$out/data"
cp "$data/train.tsv" "$out/data/train.tsv"

train() {  # train NAME FIELD...
    local name=$1
    shift
    fairseq-hydra-train --config-path pkg://dinosr_plugin.config.pretraining --config-name "${name}_speaker_$size" \
        task.data="$(cd "$out/data" && pwd)" checkpoint.save_dir="$out/$name" "$@"
}

echo "== 1 of 4: DINO, $dino_updates updates"
warmup=$((dino_updates / 15))
train dino dataset.batch_size=$dino_batch optimization.max_update=$dino_updates \
    lr_scheduler.warmup_updates=$warmup lr_scheduler.phase_updates="[$((dino_updates - warmup))]" \
    model.ema_anneal_end_step=$dino_updates model.freeze_last_layer_updates=$dino_epoch "$@"

echo "== 2 of 4: $clusters clusters of its embeddings"
dinosr speaker embed "$out/dino/checkpoint_last.pt" "$out/data/train.tsv" --out "$out/dino_embeddings"
[ -e "$out/kmeans.npz" ] || dinosr kmeans fit "$out/dino_embeddings" --clusters "$clusters" --out "$out/kmeans.npz"
[ -e "$out/data/train.clusters" ] ||
    dinosr kmeans apply "$out/kmeans.npz" "$out/dino_embeddings" "$out/data/train.tsv" --out "$out/data/train.clusters"

echo "== 3 of 4: SSRL, $epochs epochs"
train ssrl dataset.batch_size=$ssrl_batch optimization.max_epoch=$epochs task.fixed_epochs=$fixed \
    model.start_from="$out/dino/checkpoint_last.pt" model.centroids="$out/kmeans.npz" \
    model.ema_anneal_end_step=$((epochs * ssrl_epoch)) checkpoint.save_interval=$(((epochs + 7) / 8)) \
    lr_scheduler.phase_updates="[$((fixed * ssrl_epoch)),$(((epochs - fixed) * ssrl_epoch))]" "$@"

echo "== 4 of 4: the speaker of every recording"
dinosr speaker embed "$out/ssrl/checkpoint_last.pt" "$out/data/train.tsv" --out "$out/embeddings"
dinosr speaker cluster "$out/embeddings" --classifier "$out/ssrl/checkpoint_last.pt" --out "$out/speakers.tsv"
[ -n "${EVAL:-}" ] || exit 0

echo "== recordings of other speakers"
[ -e "$out/trials.txt" ] || dinosr speaker trials "$EVAL" --out "$out/trials.txt"
for name in dino ssrl; do
    dinosr speaker embed "$out/$name/checkpoint_last.pt" "$EVAL" --trials "$out/trials.txt" --out "$out/eval_$name"
    echo "$name"
    dinosr speaker eval "$out/eval_$name" "$out/trials.txt"
done
dinosr speaker report "$out/eval_ssrl" "$out/trials.txt" --recordings "$EVAL" --run "$out/ssrl" \
    --manifest "$out/data/train.tsv" --log "$out/ssrl/training.log" --out "$out/report.html"
