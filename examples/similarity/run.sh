#!/usr/bin/env bash
# The nine models that Chung, Belinkov and Glass compare (ICASSP 2021), trained at a small size, and their similarity.
#   ./examples/similarity/run.sh DATA OUT [FIELD...]
# DATA: folder with train.tsv and dev.tsv (`dinosr manifest`), in whose paths folders name the speakers. OUT: a new
# folder; with an existing one the run resumes. FIELDs (model.n_mels=40 ...) override the settings of all trainings.
# Environment variables (default): UPDATES of each training (400); SEEDS, a training of each model for each of them
# ('1 2'); DRAWS of the intervals (200); PHONES, phone alignments of train and dev, without which there is no probing
# (none). OUT/seed1/apc_fw_rnn (...) has eight checkpoints and training.log; OUT/similarity has heat maps and tables,
# from which conclusions.py prints the paper's first three conclusions; OUT/loss_probes1 (...) has what the fourth one is
# about: validation losses and probes over the checkpoints of each model.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,10s/^# //p' "$0" >&2; exit 2; }
source "$(dirname "$0")/../signals.sh" "$@"
data=$(cd "$1" && pwd) out=$2
shift 2
updates=${UPDATES:-400} seeds=${SEEDS:-1 2}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # more are hardly faster at this size
small=(
    common.cpu=true distributed_training.distributed_backend=gloo dataset.num_workers=1 common.log_interval=20
    optimization.lr=[0.003] optimization.max_epoch=0 optimization.max_update="$updates"
    checkpoint.save_interval=1000000 checkpoint.save_interval_updates=$(((updates + 7) / 8))
    dataset.valid_subset=dev dataset.validate_interval=1000000 dataset.validate_interval_updates=$(((updates + 7) / 8))
)
# 30 s of sound in an update of each. With convolutional positions Transformers learn from crops in so few updates, and
# can read utterances that are longer than the crops.
crops=(task.max_sample_size=32000 dataset.batch_size=15 model.width=128 model.dropout=0.0)
transformer=(optimization.lr=[0.001] model.heads=4 model.feed_forward=512 model.positions=convolution)
windows=(dataset.batch_size=6 model.encoder_channels=128 model.context_dim=128 model.n_negatives=32)

train() {  # train SEED MODEL FIELD...: resumes; does nothing if the training is finished
    local seed=$1 model=$2 folder=$out/seed$1/$2
    shift 2
    [ ! -f "$folder/done$updates" ] || return 0
    echo "== $folder"
    mkdir -p "$folder"
    fairseq-hydra-train --config-path pkg://dinosr_plugin.config.pretraining --config-name "$model" task.data="$data" \
        common.seed="$seed" checkpoint.save_dir="$folder" "${small[@]}" "$@"
    touch "$folder/done$updates"
}

for seed in $seeds; do
    for model in apc_fw_rnn apc_fwbw_rnn mpc_birnn; do train "$seed" $model "${crops[@]}" "$@"; done
    for model in apc_fw_trf apc_fwbw_trf mpc_trf; do train "$seed" $model "${crops[@]}" "${transformer[@]}" "$@"; done
    for model in cpc_mixed_rnn cpc_within_rnn cpc_within_cnn; do train "$seed" $model "${windows[@]}" "$@"; done
done
names=(apc_fw_rnn apc_fwbw_rnn apc_fw_trf apc_fwbw_trf mpc_birnn mpc_trf cpc_mixed_rnn cpc_within_rnn cpc_within_cnn)
models=()
for seed in $seeds; do
    for name in "${names[@]}"; do models+=("$out/seed$seed/$name/checkpoint_last.pt"); done
done
dinosr similarity "${models[@]}" fbank --manifest "$data/dev.tsv" --measure cka cka_unbiased svcca \
    --layers last --bootstrap "${DRAWS:-200}" --out "$out/similarity"
python "$(dirname "$0")/conclusions.py" "$out/similarity"
[ -n "${PHONES:-}" ] || exit 0

read -ra phones <<< "$PHONES"
awk 'NR == 1 || NR % 4 == 2' "$data/train.tsv" > "$out/probed.tsv"  # a quarter of the utterances, for speed
for seed in $seeds; do
    dinosr probe --checkpoints "${names[@]/#/$out/seed$seed/}" --train "$out/probed.tsv" --manifest "$data/dev.tsv" \
        --phones "${phones[@]}" --task phone speaker --frames 10000 --out "$out/loss_probes$seed"
done
