# Sourced by run.sh scripts: source .../phones.sh PHONES. Options of the measures, from an alignment (-: none) and ITEMS:
# phones for `dinosr quality`, abx for its ABX errors, items for `dinosr abx`; empty where there is nothing to measure.
phones=() abx=() items=()
if [ "$1" != - ]; then
    phones=(--phones "$1") abx=(--abx) items=(--phones "$1")
fi
if [ -n "${ITEMS:-}" ]; then
    abx=(--items "$ITEMS") items=(--items "$ITEMS")
fi
