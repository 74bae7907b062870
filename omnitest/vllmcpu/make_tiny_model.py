"""Writes a model folder that vLLM can serve on a CPU: a tiny Qwen2 with random weights and a tokenizer of its own.

    python make_tiny_model.py FOLDER

What it says is nonsense. What counts is that it is the same nonsense in each process, that it hangs on every token of the
prompt, and that it rarely ends by itself. So a prefill and a decode engine agree only if the KV cache really came over:

- The weights are drawn from one seeded generator in a fixed order, in float32.
- They are larger than a fresh model's. With the usual deviation of 0.02 attention averages everything, the model repeats one
  token whatever it is asked, and a wrong KV cache would not show.
- The rows of the special tokens in the output matrix are small, so greedy decoding almost never chooses to stop.

KV bytes per token: 2 (K and V) x LAYERS x KV_HEADS x HEAD_DIM x 4 = 4096.
"""
import json
import math
import pathlib
import sys

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SEED, LAYERS, HIDDEN, INNER = 7, 4, 256, 512
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 64
CONTEXT, MAX_VOCAB = 4096, 1024
END, TURN, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# The tokenizer learns its merges from this. Byte-level BPE can spell anything; Chinese that is not in here, and every emoji,
# comes out as several byte tokens, so a streamed character is cut in the middle as rare characters are with real models.
TEXT = """\
A request enters at the proxy. The prefill engine reads the whole prompt at once and keeps a key and a value for each token.
The decode engine fetches these blocks over the network and writes one token after the other. If the blocks are lost on the way
it reads the prompt again, and nobody sees the difference. Please paint a poster of a night market with the words fresh coffee.
The harbour lies behind the hill, two ships wait for the tide, and a red lamp burns at the end of the pier. What time does the
last train leave? It leaves at a quarter past eleven from the second platform. Draw a blue cube on a green table beside a small
yellow house. Three birds sit on the wire between the old tower and the school. Monday Tuesday Wednesday Thursday Friday. One
hundred and twenty people came to the station and asked for the way to the river.
今天的夜市很热闹，请画一张海报，上面写着新鲜咖啡。
"""

TEMPLATE = (
    "{% for m in messages %}" + TURN + "{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endif %}" + TURN_END + "\n{% endfor %}"
    "{% if add_generation_prompt %}" + TURN + "assistant\n{% endif %}"
)


def tokenizer():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(TEXT.splitlines(), trainers.BpeTrainer(
        vocab_size=MAX_VOCAB, min_frequency=1, show_progress=False, special_tokens=[END, TURN, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    return t


def weights(vocab, special):
    draw = torch.Generator().manual_seed(SEED)

    def matrix(rows, columns, gain):
        """Random rows that change the length of a vector by about gain."""
        return torch.randn(rows, columns, generator=draw) * (gain / math.sqrt(columns))

    w = {"model.embed_tokens.weight": matrix(vocab, HIDDEN, math.sqrt(HIDDEN)), "model.norm.weight": torch.ones(HIDDEN)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            w[f"{at}{norm}.weight"] = torch.ones(HIDDEN)
        # Values weigh more than queries and keys: what a token says of its past is mostly what attention brought.
        for name, heads, gain in (("q", HEADS, 1.5), ("k", KV_HEADS, 1.5), ("v", KV_HEADS, 3.0)):
            w[f"{at}self_attn.{name}_proj.weight"] = matrix(heads * HEAD_DIM, HIDDEN, gain)
            w[f"{at}self_attn.{name}_proj.bias"] = torch.zeros(heads * HEAD_DIM)
        w[f"{at}self_attn.o_proj.weight"] = matrix(HIDDEN, HEADS * HEAD_DIM, 3.0)
        for name, rows, columns in (("gate", INNER, HIDDEN), ("up", INNER, HIDDEN), ("down", HIDDEN, INNER)):
            w[f"{at}mlp.{name}_proj.weight"] = matrix(rows, columns, 1.0)
    w["lm_head.weight"] = matrix(vocab, HIDDEN, 4.0)
    w["lm_head.weight"][special] *= 0.1
    return w


def main(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tok = tokenizer()
    end, turn_end = tok.token_to_id(END), tok.token_to_id(TURN_END)

    def write(name, value):
        (folder / name).write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")

    tok.save(str(folder / "tokenizer.json"))
    write("tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT, "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END, "pad_token": END, "chat_template": TEMPLATE})
    write("generation_config.json", {"eos_token_id": turn_end, "pad_token_id": end})
    write("config.json", {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "torch_dtype": "float32",
        "vocab_size": tok.get_vocab_size(), "hidden_size": HIDDEN, "intermediate_size": INNER, "hidden_act": "silu",
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
        "max_position_embeddings": CONTEXT, "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "initializer_range": 0.02,
        "tie_word_embeddings": False, "use_sliding_window": False, "bos_token_id": end, "eos_token_id": turn_end})
    save_file(weights(tok.get_vocab_size(), [tok.token_to_id(t) for t in (END, TURN, TURN_END)]),
              str(folder / "model.safetensors"), metadata={"format": "pt"})
    print(f"{folder}: {tok.get_vocab_size()} tokens in the vocabulary, {LAYERS} layers, "
          f"{2 * LAYERS * KV_HEADS * HEAD_DIM * 4} bytes of KV per token")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
