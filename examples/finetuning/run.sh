#!/usr/bin/env bash
# Fine-tunes a tiny pre-trained model, and the same model with random weights, with 10 and 60 minutes of labels, and
# decodes each with five decoders.
#   ./examples/finetuning/run.sh CORPUS PRETRAINED OUT
# CORPUS: LibriSpeech's layout with the parts train (for training), more (for validation and to tune the weights of the
# language models) and dev (for measuring). PRETRAINED: a checkpoint of dinosr_tiny. OUT: a new folder; with an existing
# one the run resumes.
set -euo pipefail
[ $# = 3 ] || { sed -n '2,7s/^# //p' "$0" >&2; exit 2; }
source "$(dirname "$0")/../signals.sh" "$@"
corpus=$1 pretrained=$2 out=$3
data=$out/data
plugin=$(dinosr path)

# ---- data: every tenth utterance (10 minutes), six of ten (60 minutes); n-grams of all training transcripts ---------

rows() {  # rows MINUTES: an awk condition that selects the utterances
    case $1 in 10) echo "NR % 10 == 1" ;; 60) echo "NR % 10 < 6" ;; esac
}

if [ ! -f "$data/letters.arpa" ]; then
    dinosr manifest librispeech "$corpus" --parts train more dev --out "$data"
    for minutes in 10 60; do
        for labels in ltr wrd; do awk "$(rows $minutes)" "$data/train.$labels" > "$data/train$minutes.$labels"; done
        head -n 1 "$data/train.tsv" > "$data/train$minutes.tsv"
        tail -n +2 "$data/train.tsv" | awk "$(rows $minutes)" >> "$data/train$minutes.tsv"
    done
    dinosr ngram "$data/train.wrd" --order 3 --out "$data/words.arpa"
    dinosr ngram "$data/train.ltr" --order 6 --out "$data/letters.arpa"
fi

# ---- one recogniser --------------------------------------------------------------------------------------------------

train() {  # train NAME MINUTES UPDATES FIELD...: resumes; does nothing if the training is finished
    local name=$1 minutes=$2 updates=$3
    shift 3
    fairseq-hydra-train --config-path pkg://dinosr_plugin.config.finetuning --config-name tiny task.data="$data" \
        dataset.train_subset="train$minutes" dataset.valid_subset=more model.w2v_path="$pretrained" \
        checkpoint.save_dir="$out/$name" optimization.max_update="$updates" "$@" \
        >> "$out/$name.out" 2>&1
}

decode() {  # decode NAME PART OPTION...: prints the line with the error rates
    local name=$1 part=$2
    shift 2
    fairseq-generate "$data" --task dinosr_finetuning --user-dir "$plugin" --path "$out/$name/checkpoint_last.pt" \
        --gen-subset "$part" --cpu --scoring dinosr_wer --post-process letter --emissions "$out/$name.$part.npz" "$@" \
        2>> "$out/$name.out" | grep '^Generate'
}

tuned() {  # tuned NAME OPTION...: the best weights on the validation part, as options
    local name=$1
    shift
    dinosr tune-lm "$out/$name.more.npz" "$@" 2>> "$out/$name.out" | tee -a "$out/$name.out" |
        sed -n 's/^best: \(.*\) --beam .*/\1/p'
}

measure() {  # measure NAME: one line for each decoder
    local name=$1 letters words lexicon=(--decoder lexicon --lexicon "$data/train.wrd" --beam 50)
    decode "$name" more > /dev/null  # writes the emissions for tuning
    letters=$(tuned "$name" --lm "$data/letters.arpa" --lm-weights 1 1.5 2 2.5 3 --beam 20)
    words=$(tuned "$name" --lm "$data/words.arpa" --lexicon "$data/train.wrd" --lm-weights 1 2 3 4 5 6 \
        --word-scores 0 2 4 --beam 20)
    echo "$name, best path: $(decode "$name" dev)"
    echo "$name, beam: $(decode "$name" dev --decoder beam --beam 50)"
    echo "$name, beam with letters.arpa, $letters: $(
        decode "$name" dev --decoder beam --beam 50 --lm "$data/letters.arpa" $letters)"
    echo "$name, lexicon: $(decode "$name" dev "${lexicon[@]}")"
    echo "$name, lexicon with words.arpa, $words: $(decode "$name" dev "${lexicon[@]}" --lm "$data/words.arpa" $words)"
}

rm -f "$out/results.txt"
for minutes in 10 60; do
    updates=$((minutes == 10 ? 2000 : 3000))
    train "pretrained$minutes" $minutes $updates
    train "scratch$minutes" $minutes $updates model.no_pretrained_weights=true model.feature_grad_mult=1
    for name in "pretrained$minutes" "scratch$minutes"; do measure "$name" | tee -a "$out/results.txt"; done
done
