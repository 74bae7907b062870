#!/bin/sh
# Plays python3.12, pip, uv and the venv's python. Each call is a line in $FAKE_LOG. $FAKE_FAIL names the step that fails.
name=$(basename "$0")
echo "$name $*" | head -1 | cut -c1-60 >>"$FAKE_LOG"
fail() { [ "$FAKE_FAIL" = "$1" ] && echo "error: fake $1 failed" && exit 1; }
case "$name $*" in
*" -c import platform"*) echo "${FAKE_VERSION:-3.12.4}" ;;
*" -m venv "*)
  fail venv
  mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/pip" ;;
pip\ install*) fail pip; cp "$0" "$(dirname "$0")/uv" ;;
uv\ pip\ install*)
  mkdir -p "$UV_CACHE_DIR" && echo wheel >"$UV_CACHE_DIR/wheel"
  echo "half" >"$(dirname "$0")/vllm"
  [ "$FAKE_FAIL" = hang ] && sleep 60
  fail uv
  chmod +x "$(dirname "$0")/vllm" ;;
python\ *make_tiny_model.py\ *)
  mkdir -p "$2" && echo '{}' >"$2/config.json"
  fail model
  echo w >"$2/model.safetensors" ;;
*importlib.metadata*) fail import ;;
*) fail other ;;
esac
exit 0
