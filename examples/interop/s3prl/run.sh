#!/usr/bin/env bash
# SUPERB's phone recognition with s3prl's own recipe (SuperbPR): a frozen model, a learned sum of its layers, a linear
# layer and CTC. Prints the phone error rate of the test set.
#   ./examples/interop/s3prl/run.sh DATA OUT UPSTREAM [CHECKPOINT]
# DATA: folder with a manifest (`dinosr manifest`) and a phone alignment of each set: train.tsv, train.phones.tsv, ...
# OUT: a folder; with an existing one the run resumes. UPSTREAM: dinosr, dinosr_teacher or dinosr_random with a
# CHECKPOINT, or one of s3prl's own, such as fbank.
# Environment variables (default): TRAIN, VALID, TEST: names of the sets (train, dev, test); STEPS: updates (100000,
# SUPERB's); BATCH: utterances of an update (16); DEVICE: cpu or cuda (cuda).
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,10s/^# //p' "$0" >&2; exit 2; }
source "$(dirname "$0")/../../signals.sh" "$@"
data=$1 out=$2 upstream=(--build_upstream.name "$3")
[ $# -lt 4 ] || upstream+=(--build_upstream.path_or_url "$4")
train=${TRAIN:-train} valid=${VALID:-dev} test=${TEST:-test} steps=${STEPS:-100000}
mkdir -p "$out"

csv() {  # csv SET: the table that SuperbPR reads, of the utterances that the alignment has; phones without silence
    awk -F '\t' '
        BEGIN { print "id,wav_path,transcription" }
        NR == FNR { if (FNR > 1 && $4 != "SIL") phones[$1] = phones[$1] (phones[$1] == "" ? "" : " ") $4; next }
        FNR == 1 { root = $1; next }
        { utt = $1; sub(/.*\//, "", utt); sub(/\.[^.]*$/, "", utt) }
        utt in phones { printf "%s,\"%s/%s\",%s\n", utt, root, $1, phones[utt] }
    ' "$data/$1.phones.tsv" "$data/$1.tsv" > "$out/$1.csv"
}
for name in "$train" "$valid" "$test"; do csv "$name"; done

# --start 1: stage 0 would look for LibriSpeech and download a pronunciation dictionary
every=$((steps < 1000 ? steps : 1000))
dinosr s3prl main SuperbPR --target_dir "$out" --start 1 --device "${DEVICE:-cuda}" --num_workers 1 \
    --prepare_data.dataset_root "$data" --prepare_data.train_sets "['$train']" \
    --prepare_data.valid_sets "['$valid']" --prepare_data.test_sets "['$test']" "${upstream[@]}" \
    --build_batch_sampler.train.batch_size "${BATCH:-16}" \
    --train.total_steps "$steps" --train.eval_step "$every" --train.save_step "$every"
cat "$out/evaluate/valid_best/$test/result.yaml"
