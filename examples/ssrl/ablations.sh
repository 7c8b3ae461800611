#!/usr/bin/env bash
# What parts of SSRL contribute: trainings with as many updates without one of them, on the data and the DINO model of a
# run of run.sh.
#   ./examples/ssrl/ablations.sh OUT
# OUT: the folder of that run, in which the trainings are written: no_queue (labels are what the teacher assigned last),
# no_weights (all recordings count the same), and round1 to round3, the two-stage method: train with fixed labels, then
# cluster the embeddings of that model. With an existing training it resumes.
# Environment variables (default), as for run.sh: SIZE (tiny); SSRL_BATCH (32); FIXED_EPOCHS (12); SSRL_EPOCHS (32).
set -euo pipefail
[ $# -eq 1 ] || { sed -n '2,8s/^# //p' "$0" >&2; exit 2; }
source "$(dirname "$0")/../signals.sh" "$@"
out=$1 fixed=${FIXED_EPOCHS:-12} epochs=${SSRL_EPOCHS:-32} batch=${SSRL_BATCH:-32}
updates=$((($(wc -l < "$out/data/train.tsv") - 1) / batch))  # in an epoch
clusters=$(wc -l < "$out/data/dict.clusters.txt")

train() {  # train NAME DATA CHECKPOINT CENTROIDS EPOCHS FIELD...
    local name=$1 data=$2 start=$3 centroids=$4 number=$5
    shift 5
    echo "== $name, $number epochs"
    fairseq-hydra-train --config-path pkg://dinosr_plugin.config.pretraining \
        --config-name "ssrl_speaker_${SIZE:-tiny}" task.data="$(cd "$data" && pwd)" dataset.batch_size=$batch \
        optimization.max_epoch=$number \
        model.start_from="$start" model.centroids="$centroids" model.ema_anneal_end_step=$((number * updates)) \
        checkpoint.save_dir="$out/$name" "$@"
}

dino=$out/dino/checkpoint_last.pt
phases="lr_scheduler.phase_updates=[$((fixed * updates)),$(((epochs - fixed) * updates))]"
train no_queue "$out/data" "$dino" "$out/kmeans.npz" $epochs task.fixed_epochs=$fixed "$phases" task.label_queue=1
train no_weights "$out/data" "$dino" "$out/kmeans.npz" $epochs task.fixed_epochs=$fixed "$phases" \
    task.clean_weights=false

rounds=($fixed $(((epochs - fixed) / 2)) $((epochs - fixed - (epochs - fixed) / 2)))
rates=(0.002 0.0005 0.0005)
model=$dino data=$out/data centroids=$out/kmeans.npz
for number in 1 2 3; do
    name=round$number length=${rounds[number - 1]}
    if [ $number -gt 1 ]; then
        data=$out/data$number centroids=$out/kmeans$number.npz
        mkdir -p "$data"
        cp "$out/data/train.tsv" "$data/train.tsv"
        dinosr speaker embed "$model" "$data/train.tsv" --out "$out/embeddings$number"
        [ -e "$centroids" ] || dinosr kmeans fit "$out/embeddings$number" --clusters $clusters --out "$centroids"
        [ -e "$data/train.clusters" ] ||
            dinosr kmeans apply "$centroids" "$out/embeddings$number" "$data/train.tsv" --out "$data/train.clusters"
    fi
    train $name "$data" "$model" "$centroids" $length task.fixed_epochs=1000000 task.clean_weights=false \
        optimization.lr="[${rates[number - 1]}]" lr_scheduler.phase_updates="[$((length * updates))]"
    model=$out/$name/checkpoint_last.pt
done
