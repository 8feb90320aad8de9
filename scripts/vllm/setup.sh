#!/usr/bin/env bash
# Make the virtual environment .venv-vllm (or VLLM_VENV=...) for `sampler: vllm`: vLLM, apart from the project's environment,
# for GPUs where there are any (nvidia-smi), and else for CPUs.
set -euo pipefail
repository=$(CDPATH="" cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd)
venv=${VLLM_VENV:-$repository/.venv-vllm}
requirements=$repository/scripts/vllm/requirements.txt
nvidia-smi >/dev/null 2>&1 || requirements=$repository/scripts/vllm/requirements-cpu.txt

VENV=$venv bash "$repository/scripts/setup.sh" "$requirements"
# vLLM asks for these, for images and sound. Where their build is not of this torch, they fail when they are imported.
for package in torchvision torchaudio torchcodec; do
  if "$venv/bin/python" -m pip show --quiet "$package" 2>/dev/null && ! "$venv/bin/python" -c "import $package" 2>/dev/null; then
    "$venv/bin/python" -m pip uninstall --quiet --yes --disable-pip-version-check "$package"
  fi
done
