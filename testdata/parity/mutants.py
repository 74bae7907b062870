"""The calculator with one rule changed each time, the way that a plausible other client has it. Reads the stored cases on stdin
and writes for each mutant how many figures are then off by more than 1e-6."""

import json
import pathlib
import sys
import types

SOURCE = (pathlib.Path(__file__).parent / "calculator.py").read_text()

# name, lines of the calculator, what stands there instead
MUTANTS = [
    ("nothing changed", "", ""),
    (
        "TTFT at the first content",
        "if not first:\n",
        "if not first and not content:\n                    continue\n                if not first:\n",
    ),
    (
        "ITL without empty chunks",
        "                    out[\"itl\"].append(timestamp - most_recent)\n",
        "                    if content:\n                        out[\"itl\"].append(timestamp - most_recent)\n",
    ),
    (
        "E2EL includes the usage message (before vllm#55508)",
        "                out[\"tokens\"] = usage.get(\"completion_tokens\")\n",
        "                most_recent = timestamp\n                out[\"tokens\"] = usage.get(\"completion_tokens\")\n",
    ),
    (
        "usage on a chunk with choices counts",
        "            elif usage := data.get(\"usage\"):\n",
        "            if usage := data.get(\"usage\"):\n",
    ),
    (
        "the first usage counts, not the last",
        "                out[\"tokens\"] = usage.get(\"completion_tokens\")\n",
        "                out[\"tokens\"] = out[\"tokens\"] or usage.get(\"completion_tokens\")\n",
    ),
    (
        "usage.prompt_tokens is passed over",
        "                    out[\"prompt\"] = n\n    except (ValueError, OSError, KeyError, AttributeError):\n        return blank(request)\n    out[\"ok\"] = first",
        "                    pass\n    except (ValueError, OSError, KeyError, AttributeError):\n        return blank(request)\n    out[\"ok\"] = first",
    ),
    (
        "TPOT over all tokens",
        "(out[\"latency\"] - out[\"ttft\"]) / (tokens - 1) if tokens > 1",
        "(out[\"latency\"] - out[\"ttft\"]) / tokens if tokens > 1",
    ),
    (
        "TPOT of one token is 0",
        "/ (tokens - 1) if tokens > 1 else None",
        "/ (tokens - 1) if tokens > 1 else 0.0",
    ),
    (
        "200 without an event is a success (vllm)",
        "    out[\"ok\"] = first\n",
        "    out[\"ok\"] = True\n",
    ),
    (
        "200 without an event is a failure (omni)",
        "    out[\"ok\"] = True\n    return out\n\n\ndef vllm_tokens",
        "    out[\"ok\"] = out[\"latency\"] > 0\n    return out\n\n\ndef vllm_tokens",
    ),
    (
        "a reset after some tokens is a success",
        "        raise ConnectionResetError\n",
        "        return\n",
    ),
    (
        "untold tokens are none",
        "return 1 if request[\"tokenizer\"] is None",
        "return 0 if request[\"tokenizer\"] is None",
    ),
    (
        "the tokenizer is not asked",
        "else request[\"tokenizer\"]\n",
        "else 1\n",
    ),
    (
        "sample standard deviation",
        "for v in values) / len(values))",
        "for v in values) / max(1, len(values) - 1))",
    ),
    (
        "percentiles of type 6",
        "at = p / 100 * (len(values) - 1)",
        "at = min(max(p / 100 * (len(values) + 1) - 1, 0), len(values) - 1)",
    ),
    (
        "nearest-rank percentiles",
        "values[low] + (at - low) * (values[high] - values[low])",
        "values[low]",
    ),
    (
        "one-token answers fail a TPOT objective (vllm)",
        "return 0.0 if tpot is None else tpot",
        "return tpot",
    ),
    (
        "one-token answers meet a TPOT objective (omni)",
        "def omni_goodput_tpot(tpot):\n    return tpot",
        "def omni_goodput_tpot(tpot):\n    return tpot or 0.0",
    ),
    (
        "one objective is enough",
        "good += all(",
        "good += any(",
    ),
    (
        "failures count as good",
        "        tokens.append(n)\n",
        "        else:\n            good += 1\n        tokens.append(n)\n",
    ),
    (
        "peak concurrency by 1 s buckets (vllm)",
        "vllm_timeline, exact_concurrency",
        "vllm_timeline, second_concurrency",
    ),
    (
        "peak concurrency by a sweep (omni)",
        "omni_timeline, second_concurrency",
        "omni_timeline, exact_concurrency",
    ),
    (
        "peak tokens by buckets of 2 s",
        "buckets[int(at - first)] = buckets.get(int(at - first), 0) + 1\n                for",
        "buckets[int(at - first) // 2] = buckets.get(int(at - first) // 2, 0) + 1\n                for",
    ),
    (
        "a role chunk is a token (omni)",
        "if k == 0 and content and completion is None:",
        "if k == 0 and completion is None:",
    ),
    (
        "one ITL value per chunk (omni)",
        "[max(timestamp - most_recent, 0.0) / k] * k",
        "[max(timestamp - most_recent, 0.0)]",
    ),
    (
        "ITL of a chunk undivided (omni)",
        "max(timestamp - most_recent, 0.0) / k]",
        "max(timestamp - most_recent, 0.0)]",
    ),
    (
        "surplus tokens of the first chunk are dropped (omni)",
        "out[\"itl\"] += [0.0] * (k - 1)",
        "out[\"itl\"] += []",
    ),
    (
        "token_ids are passed over (omni)",
        "if k == 0 and (ids := choices[0].get(\"token_ids\")):",
        "if k == 0 and (ids := choices[0].get(\"no_ids\")):",
    ),
    (
        "usage counts from 0 in each chunk (omni)",
        "k, seen = completion - seen, completion",
        "k, seen = completion, 0",
    ),
    (
        "TPOT from E2EL (omni)",
        "        mean = sum(out[\"itl\"]) / len(out[\"itl\"])\n",
        "        mean = (out[\"latency\"] - out[\"ttft\"]) / (tokens - 1)\n",
    ),
    (
        "E2EL at the last text token (omni)",
        "out[\"latency\"] = timestamp - st\n",
        "out[\"latency\"] = most_recent - st\n",
    ),
    (
        "TTFP at the last packet (omni)",
        "if out[\"audio_ttfp\"] == 0.0:",
        "if True:",
    ),
    (
        "TTFP wants data (omni)",
        "if out[\"audio_ttfp\"] == 0.0:",
        "if out[\"audio_ttfp\"] == 0.0 and content:",
    ),
    (
        "RTF over E2EL (omni)",
        "out[\"audio_rtf\"] = last_audio / seconds",
        "out[\"audio_rtf\"] = out[\"latency\"] / seconds",
    ),
    (
        "audio chunks count as text (omni)",
        "if modality == \"text\":",
        "if modality in (\"text\", \"audio\"):",
    ),
    (
        "the last usage counts, not the highest (omni)",
        "out[\"tokens\"] = max(out[\"tokens\"], completion)",
        "out[\"tokens\"] = min(out[\"tokens\"] or completion, completion)",
    ),
    (
        "rates over the first to the last event",
        "duration = run[\"wall_ns\"] / 1e9",
        "duration = run[\"wall_ns\"] / 1e9 - 0.007",
    ),
    (
        "requests without a text token have no TTFT (omni)",
        "            ttfts.append(out[\"ttft\"])\n",
        "            if out[\"ttft\"]:\n                ttfts.append(out[\"ttft\"])\n",
    ),
]


def off(want, got):
    """How many numbers differ. None and a number do, and so do lists of different lengths."""
    if isinstance(want, dict):
        return sum(off(v, got.get(k)) for k, v in want.items())
    if isinstance(want, list):
        if not isinstance(got, list) or len(want) != len(got):
            return 1
        return sum(off(a, b) for a, b in zip(want, got))
    if want is None or got is None or isinstance(want, str):
        return int(want != got)
    return int(abs(want - got) > 1e-6 * max(1, abs(want)))


def main():
    cases = json.load(sys.stdin)
    report = []
    for name, rule, changed in MUTANTS:
        if rule and SOURCE.count(rule) != 1:
            sys.exit(f"{name}: stands {SOURCE.count(rule)} times in the calculator: {rule!r}")
        mutant = types.ModuleType("mutant")
        exec(compile(SOURCE.replace(rule, changed) if rule else SOURCE, name, "exec"), mutant.__dict__)
        figures = 0
        for run in cases["runs"]:
            for want in run["want"]:
                figures += off(want, mutant.calculate(run, want["profile"]))
        report.append({"name": name, "figures_off": figures})
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
