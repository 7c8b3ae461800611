#!/usr/bin/env bash
# A DinoSR model of English goes on with synthetic Spanish voices, in several ways, and then back to English.
#   ./examples/continue/run.sh CHECKPOINT DATA PHONES OUT [FIELD...]
# CHECKPOINT: the model, of CONFIG's size. DATA: folder with train.tsv and dev.tsv (`dinosr manifest`), the audio that
# it was trained on. PHONES: phone alignment of dev, or - without one: the table is then without phones of English. OUT:
# a new folder; with an existing one the run resumes. FIELDs (model.dropout=0.1 ...) override the settings of all
# trainings. Environment variables (default): UPDATES of each training (1000); RATES, learning rates with warm codebooks
# ('0.001 0.0003 0.0001'); RATE of the other trainings that start from a model (0.0003); MINUTES of Spanish (40) by
# VOICES (16); EVERY, one English utterance of so many is in the mixture (4); LAYER whose features have an ABX error
# (3); CONFIG (dinosr_tiny). OUT/runs/warm_0.001 (...) has the checkpoints and training.log; the table is printed in the
# end and is in OUT/table.txt; OUT/losses.png has the losses on both languages.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,11s/^# //p' "$0" >&2; exit 2; }
source "$(dirname "$0")/../signals.sh" "$@"
base=$1 data=$(cd "$2" && pwd) phones=$3 out=$4
shift 4
updates=${UPDATES:-1000} rate=${RATE:-0.0003} layer=${LAYER:-3}
read -ra rates <<< "${RATES:-0.001 0.0003 0.0001}"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
mkdir -p "$out"
out=$(cd "$out" && pwd)

echo "== Spanish"
dinosr synth --language es --minutes "${MINUTES:-40}" --speakers "${VOICES:-16}" --out "$out/corpus"
[ -f "$out/es/english.tsv" ] || {
    dinosr manifest librispeech "$out/corpus" --out "$out/es"
    cp "$out/es/dev.tsv" "$out/es/spanish.tsv"
    for folder in mixed en; do mkdir -p "$out/$folder"; cp "$out/es/spanish.tsv" "$out/$folder"; done
    # one manifest of two folders: its root is /, and every path is complete
    awk -F '\t' -v OFS='\t' -v every="${EVERY:-4}" '
        FNR == 1 { root = substr($0, 2); if (NR == 1) print "/"; next }
        NR == FNR || FNR % every == 0 { print root "/" $1, $2 }' "$out/es/train.tsv" "$data/train.tsv" \
        > "$out/mixed/train.tsv"
    cp "$data/train.tsv" "$out/en"
    for folder in en mixed es; do cp "$data/dev.tsv" "$out/$folder/english.tsv"; done
}

step=$(((updates + 9) / 10))
train() {  # train NAME FOLDER SUBSETS FIELD...: resumes; does nothing if the training is finished
    local run=$out/runs/$1 folder=$out/$2 subsets=$3
    shift 3
    [ ! -f "$run/done$updates" ] || return 0
    echo "== $run"
    mkdir -p "$run"
    fairseq-hydra-train --config-path pkg://dinosr_plugin.config.pretraining --config-name "${CONFIG:-dinosr_tiny}" \
        task.data="$folder" dataset.valid_subset="'$subsets'" checkpoint.save_dir="$run" \
        dataset.disable_validation=false dataset.validate_interval_updates=$step \
        checkpoint.save_interval_updates=$step checkpoint.keep_interval_updates=1 common.log_interval=$step \
        optimization.max_update="$updates" "$@"
    touch "$run/done$updates"
}

# the first subset decides on checkpoint_best.pt
for each in "${rates[@]}"; do
    train "warm_$each" es spanish,english model.start_from="$base" optimization.lr=["$each"] "$@"
done
train "new_$rate" es spanish,english model.start_from="$base" model.start_codebooks=new optimization.lr=["$rate"] "$@"
train "mixed_$rate" mixed spanish,english model.start_from="$base" optimization.lr=["$rate"] "$@"
train scratch es spanish,english "$@"
train "back_$rate" en english,spanish model.start_from="$out/runs/warm_${rates[0]}/checkpoint_last.pt" \
    optimization.lr=["$rate"] "$@"

names=("${rates[@]/#/warm_}" "new_$rate" "mixed_$rate" scratch "back_$rate")
measured=$out/measured$updates
measure() {  # measure LANGUAGE PHONES: of all models and of the one before
    local language=$1 phones=$2 manifest=$out/es/$1.tsv name checkpoint units folders=()
    for name in before "${names[@]}"; do
        checkpoint=$out/runs/$name/checkpoint_last.pt
        [ "$name" != before ] || checkpoint=$base
        units=$measured/units/$language/$name
        [ -f "$units/quality.json" ] ||
            dinosr quality "$checkpoint" --manifest "$manifest" --phones "$phones" --out "$units"
        dinosr features "$checkpoint" "$manifest" --layer "$layer" --out "$measured/features/$language/$name"
        folders+=("$measured/features/$language/$name")
    done
    dinosr abx "${folders[@]}" --phones "$phones" --out "$measured/abx/$language"
}
echo "== measures"
measure spanish "$out/corpus/dev.phones.tsv"
[ "$phones" = - ] || measure english "$phones"
python "$(dirname "$0")/table.py" "$out" "$measured" before "${names[@]}" | tee "$out/table.txt"
