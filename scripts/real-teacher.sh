#!/usr/bin/env bash
# Runs pipelines/hosted-teacher.kdl against a real server: llama-cpp-python's, on a small model, on this machine.
#
#   scripts/real-teacher.sh --model MODEL.gguf [--limit N] [--dir DIR] [--idiolect PROGRAM]
#
# DIR (default .peer/teacher) gets a virtual environment with the server at the versions below, the store and the run
# folder. The pipeline runs again with two problems more: the script fails unless exactly those are asked for.
set -euo pipefail

readonly SERVER=(
  "llama-cpp-python[server]==0.3.36" fastapi==0.165.0 uvicorn==0.54.0 starlette==1.10.0 starlette-context==0.3.6
  sse-starlette==3.7.0 pydantic-settings==2.16.3
)
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly ROOT
MODEL="" LIMIT=16 DIR=$ROOT/.peer/teacher IDIOLECT=$ROOT/target/release/idiolect

die() { echo "real-teacher.sh: $*" >&2; exit 1; }
say() { echo "real-teacher.sh: $*" >&2; }

while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || die "\`$1\` needs a value"
  case $1 in
    --model) MODEL=$2 ;;
    --limit) LIMIT=$2 ;;
    --dir) DIR=$2 ;;
    --idiolect) IDIOLECT=$2 ;;
    *) die "unknown option \`$1\`: see the head of this file" ;;
  esac
  shift 2
done
[ -f "$MODEL" ] || die "give a GGUF file with \`--model\`"
[ -x "$IDIOLECT" ] || die "$IDIOLECT is not there: build it with \`cargo build --release\`, or name it with \`--idiolect\`"

mkdir -p "$DIR"
if [ ! -x "$DIR/venv/bin/python" ] || ! "$DIR/venv/bin/python" -c 'import llama_cpp.server' 2>/dev/null; then
  say "installing the server into $DIR/venv"
  python3 -m venv "$DIR/venv"
  "$DIR/venv/bin/pip" install --quiet "${SERVER[@]}"
fi

PORT=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
URL=http://127.0.0.1:$PORT/v1
"$DIR/venv/bin/python" -m llama_cpp.server --model "$MODEL" --model_alias peer --host 127.0.0.1 --port "$PORT" \
  --n_ctx 2048 --interrupt_requests false --verbose false >"$DIR/server.log" 2>&1 &
PEER=$!
trap 'kill "$PEER" 2>/dev/null || true' EXIT
answers() { python3 -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=2)' "$URL/models" 2>/dev/null; }
for _ in $(seq 120); do
  answers && break
  kill -0 "$PEER" 2>/dev/null || die "the server has ended: $(tail -5 "$DIR/server.log")"
  sleep 1
done
answers || die "the server did not come up within two minutes: see $DIR/server.log"
say "the server listens at $URL"

run() {
  env -u HTTP_PROXY -u http_proxy "$IDIOLECT" run "$ROOT/pipelines/hosted-teacher.kdl" --store "$DIR/store" --out "$DIR/run" \
    -P url="$URL" -P name=peer -P limit="$1"
}
rm -rf "$DIR/store" "$DIR/run"
time run "$LIMIT"
[ "$(wc -l <"$DIR/run/answers.jsonl")" -eq "$LIMIT" ] || die "not every problem has an answer: see $DIR/run/quarantine.jsonl"
asked() { grep -c '"POST /v1/chat/completions' "$DIR/server.log" || true; }
before=$(asked)
run $((LIMIT + 2)) >/dev/null
after=$(asked)
[ "$after" -eq $((before + 2)) ] || die "the second run asked $((after - before)) times, and not twice"
say "$LIMIT problems in $before requests; two problems more in two"
