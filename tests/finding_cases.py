"""Configurations, each with the finding on what trains that it must give: `test_findings.py` runs over them.

``# here`` marks the line of the setting at fault. DATA and CHECKPOINT stand for the demo's training file and for the
folder of a checkpoint of modules_to_save at step 30, and MODEL in a message for the folder of the model.
"""

from __future__ import annotations

from dataclasses import dataclass

ALIGNER = r"'^model\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]$'"
MERGERS = "[model.visual.merger, model.visual.deepstack_merger_list]"
WHOLE = f"tuner:\n  target_regex: '^$'\n  modules_to_save: {MERGERS}\n"
LORA = f"tuner:\n  target_regex: {ALIGNER}\n"
SPLIT = "data: {train: DATA, split_dataset_ratio: 0.25}\n"


@dataclass(frozen=True)
class Case:
    """A configuration that must give a finding, and a near one that must not.

    Attributes:
        message: the finding's whole text.
        no_fix: why an error's hint can't be a config patch.
        model: which of the test's models: demo, tied, moe, bf16, 2B, unbuilt or incomplete.
        processes: number of training processes.
    """

    code: str
    text: str
    message: str
    clean: str
    no_fix: str = ""
    model: str = "demo"
    processes: int = 1


TRAINED = [
    Case(
        "regex-invalid",
        "tuner:\n  target_regex: '('  # here\n",
        "target_regex '(': missing ), unterminated subpattern at position 0",
        LORA,
    ),
    Case(
        "target-matches-nothing",
        "tuner:\n  target_regex: '^visual\\.merger'  # here\n",
        r"target_regex '^visual\\.merger' adapts no layer of qwen3_vl: no name matches it",
        LORA,
    ),
    Case(
        "target-matches-nothing",
        "tuner:\n  target_regex: model.visual.merger  # here\n",
        "target_regex 'model.visual.merger' adapts no layer of qwen3_vl: "
        "it matches only model.visual.merger (container)",
        LORA,
    ),
    Case(
        "target-matches-nothing",
        "tuner:\n  target_modules:\n    - q_proj\n    - linear_fc3  # here\n",
        "target_modules 'linear_fc3' adapts no layer of qwen3_vl: no name matches it",
        "tuner:\n  target_modules: [q_proj]\n",
    ),
    Case(
        "saved-matches-nothing",
        "tuner:\n  target_regex: '^$'\n  modules_to_save:\n    - model.visual.merger\n    - aligner  # here\n",
        "modules_to_save: 'aligner' matches no module of qwen3_vl",
        WHOLE,
    ),
    Case(
        "saved-matches-nothing",
        "tuner:\n  target_regex: '^$'\n  modules_to_save: [model.visual.mergers]  # here\n",
        "modules_to_save: 'model.visual.mergers' matches no module of qwen3_vl",
        WHOLE,
        no_fix="the hint names the nearest module",
    ),
    Case(
        "saved-by-suffix",
        "tuner:\n  target_regex: '^$'\n  modules_to_save:\n    - model.language_model.norm\n    - q_norm\n"
        "    - er.norm  # here\n",
        "modules_to_save: 'er.norm' also matches model.visual.merger.norm: peft compares only the end of a name",
        "tuner:\n  target_regex: '^$'\n  modules_to_save: [merger.norm]\n",
        no_fix="which of the names is meant can't be told",
    ),
    Case(
        "saved-nested",
        "tuner:\n  target_regex: '^$'\n  modules_to_save:  # here\n    - model.visual.merger\n"
        "    - model.visual.merger.norm\n    - model.visual.deepstack_merger_list\n",
        "modules_to_save: model.visual.merger.norm lies inside model.visual.merger, which is saved whole already",
        WHOLE,
    ),
    Case(
        "target-saved-overlap",
        f"tuner:\n  target_regex: {ALIGNER}\n  modules_to_save: {MERGERS}  # here\n",
        "modules_to_save also holds 8 adapted layers: model.visual.merger.linear_fc1, model.visual.merger.linear_fc2, "
        "model.visual.deepstack_merger_list.0.linear_fc1, model.visual.deepstack_merger_list.0.linear_fc2 and 4 more",
        f"tuner:\n  target_regex: .*\\.q_proj\n  modules_to_save: {MERGERS}\n",
    ),
    Case("nothing-trains", "tuner:\n  freeze_aligner: true  # here\n", "no parameter would train", ""),
    Case("nothing-trains", "tuner:\n  target_regex: '^$'  # here\n", "no parameter would train", WHOLE),
    Case("nothing-trains", "tuner:\n  target_modules: []  # here\n", "no parameter would train", LORA),
    Case(
        "nothing-trains",
        "tuner:\n  train_type: boft\n  target_regex: '^$'  # here\n",
        "no parameter would train",
        "tuner:\n  train_type: boft\n",
    ),
    Case(
        "nothing-trains",
        "tuner:\n  train_type: full\n  freeze_aligner: true  # here\n",
        "no parameter would train",
        "tuner:\n  train_type: full\n",
    ),
    Case(
        "aligner-incomplete",
        "tuner:\n  target_regex: '^$'\n  modules_to_save: [model.visual.merger]  # here\n",
        "model.visual.deepstack_merger_list.0, model.visual.deepstack_merger_list.1, "
        "model.visual.deepstack_merger_list.2 would stay frozen: 75% of the aligner",
        WHOLE,
    ),
    Case(
        "aligner-incomplete",
        "tuner:\n  target_regex: model\\.visual\\.merger\\.linear_fc\\d|.*\\.q_proj  # here\n",
        "model.visual.deepstack_merger_list.0, model.visual.deepstack_merger_list.1, "
        "model.visual.deepstack_merger_list.2 would stay frozen: 75% of the aligner",
        "tuner:\n  target_regex: .*merger.*\\.linear_fc\\d|.*\\.q_proj\n",
    ),
    Case(
        "aligner-incomplete",
        "tuner:\n  target_modules: [q_proj, merger.linear_fc1, deepstack_merger_list.0.linear_fc1]  # here\n",
        "model.visual.deepstack_merger_list.1, model.visual.deepstack_merger_list.2 would stay frozen: "
        "50% of the aligner",
        "tuner:\n  target_modules: [0.linear_fc1, 1.linear_fc1, 2.linear_fc1, merger.linear_fc1]\n",
    ),
    Case(
        "aligner-untouched",
        "tuner:\n  target_regex: .*\\.q_proj  # here\n",
        "nothing in the aligner would train",
        f"tuner:\n  target_regex: .*\\.q_proj\n  modules_to_save: {MERGERS}\n",
    ),
    Case(
        "vit-by-suffix",
        "tuner:\n  target_modules: [linear_fc1, linear_fc2]  # here\n",
        "target_modules also adapts 8 ViT layers: model.visual.blocks.0.mlp.linear_fc1, "
        "model.visual.blocks.0.mlp.linear_fc2, model.visual.blocks.1.mlp.linear_fc1, "
        "model.visual.blocks.1.mlp.linear_fc2 and 4 more",
        "tuner:\n  freeze_vit: false\n  target_modules: [linear_fc1, linear_fc2]\n",
    ),
    Case(
        "vit-by-suffix",
        f"tuner:\n  target_regex: .*\\.0\\.attn\\.qkv  # here\n  modules_to_save: {MERGERS}\n",
        "target_regex also adapts 1 ViT layer: model.visual.blocks.0.attn.qkv",
        f"tuner:\n  target_regex: .*\\.blocks\\.0\\.attn\\.qkv\n  modules_to_save: {MERGERS}\n",
    ),
    Case(
        "vit-by-suffix",
        "tuner:\n  target_regex: '^$'\n  modules_to_save: [mlp.linear_fc1, model.visual.merger, "
        "model.visual.deepstack_merger_list]  # here\n",
        "modules_to_save also trains 4 ViT modules whole: model.visual.blocks.0.mlp.linear_fc1, "
        "model.visual.blocks.1.mlp.linear_fc1, model.visual.blocks.2.mlp.linear_fc1, "
        "model.visual.blocks.3.mlp.linear_fc1",
        "tuner:\n  target_regex: '^$'\n  modules_to_save: [model.visual]\n",
    ),
    Case(
        "lm-head-trained",
        "tuner:\n  freeze_vit: false\n  target_regex: .*  # here\n",
        "lm_head would train, and no setting names it",
        "tuner:\n  freeze_vit: false\n  target_regex: .*\\.linear_fc1|lm_head\n",
        no_fix="which of the other layers are meant can't be told",
    ),
    Case(
        "embeddings-trained",
        "tuner:\n  freeze_vit: false\n  target_regex: .*  # here\n",
        "model.language_model.embed_tokens would train, and no setting names it",
        "tuner:\n  target_regex: '^$'\n  modules_to_save: [all-embedding]\n",
        no_fix="which of the other layers are meant can't be told",
    ),
    Case(
        "tied-embeddings",
        "tuner:\n  target_regex: '^$'\n  modules_to_save: [lm_head]  # here\n",
        "lm_head would train, but this model ties lm_head to the embedding: both would change",
        "tuner:\n  train_type: full\n  freeze_llm: false\n",
        no_fix="what trains instead can't be told",
        model="tied",
    ),
    Case(
        "outside-expected",
        f"tuner:\n  target_regex: .*\\.0\\.self_attn\\.q_proj\n  modules_to_save: {MERGERS}\n",
        "2 tensors outside the aligner would train: "
        "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.default.weight, "
        "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_B.default.weight",
        WHOLE,
        no_fix="it may be the expectation that is wrong",
    ),
    Case(
        "outside-expected",
        "tuner:\n  target_regex: '^$'\n  modules_to_save: [deepstack_merger_list]\n",
        "nothing would train in model.visual.merger",
        LORA,
        no_fix="aligner-incomplete has the fix",
    ),
    Case(
        "freeze-flags-ignored",
        f"{WHOLE}  freeze_llm: true  # here\n  freeze_aligner: true\n",
        "freeze_llm, freeze_aligner: no effect, since target_regex decides what gets adapters",
        "tuner:\n  freeze_llm: true\n  target_modules: [all-linear]\n",
    ),
    Case(
        "freeze-flags-contradicted",
        f"tuner:\n  freeze_vit: true\n  freeze_llm: false  # here\n  target_regex: {ALIGNER}\n",
        "freeze_llm: false, but the LLM stays frozen",
        f"tuner:\n  freeze_vit: true\n  freeze_llm: true\n  target_regex: {ALIGNER}\n",
    ),
    Case(
        "freeze-flags-contradicted",
        f"tuner:\n  freeze_aligner: true  # here\n  target_regex: {ALIGNER}\n",
        "freeze_aligner: true, but the aligner gets adapters",
        "tuner:\n  freeze_aligner: true\n  freeze_llm: false\n",
    ),
    Case(
        "freeze-flags-contradicted",
        "tuner:\n  freeze_llm: true  # here\n  target_regex: '^$'\n  modules_to_save: [lm_head]\n",
        "freeze_llm: true, but lm_head trains whole",
        WHOLE,
    ),
    Case(
        "passed-over",
        "tuner:\n  target_regex: .*merger\\.(linear_fc1|norm|act_fn)  # here\n",
        "the target also matches 2 modules that lora can't adapt: "
        "model.visual.merger.norm (layer_norm), model.visual.merger.act_fn (plain)",
        LORA,
    ),
    Case(
        "setting-unused",
        f"tuner:\n  target_regex: {ALIGNER}\n  lora_rank: 4\n  boft_dropout: 0.1  # here\n  fourier_scaling: 100\n",
        "boft_dropout, fourier_scaling: no effect with lora",
        f"tuner:\n  target_regex: {ALIGNER}\n  lora_rank: 4\n  use_rslora: true\n  trainable_dtype: base\n"
        f"  modules_to_save: [lm_head]\n",
    ),
    Case(
        "setting-unused",
        "tuner:\n  train_type: adalora\n  lora_rank: 4  # here\n",
        "lora_rank: no effect with adalora",
        "tuner:\n  train_type: adalora\n  lora_alpha: 4\n",
    ),
    Case(
        "setting-unused",
        f"tuner:\n  train_type: full\n  modules_to_save: {MERGERS}  # here\n  target_modules: [q_proj]\n",
        "modules_to_save, target_modules: no effect with full",
        "tuner:\n  train_type: full\n  freeze_vit: true\n",
    ),
    Case(
        "setting-unused",
        f"tuner:\n  target_regex: {ALIGNER}\n  target_modules: [q_proj]  # here\n",
        "target_modules: no effect, since target_regex is given",
        LORA,
    ),
    Case(
        "setting-unused",
        f"tuner:\n  target_regex: {ALIGNER}\n  trainable_dtype: base  # here\n",
        "trainable_dtype: no effect, since adapters are float32",
        f"{WHOLE}  trainable_dtype: base\n",
    ),
    Case(
        "key-without-effect",
        f"{WHOLE}custom:\n  dump_conversation_text: true  # here\n",
        "custom.dump_conversation_text has no effect: 'swiftalign preview-aug' shows the texts that are learnt",
        f"{WHOLE}custom:\n  emit_norm: norm1000\n",
    ),
    Case(
        "weights-missing",
        WHOLE,
        "the weight files lack 1 tensor that config.json describes: model.visual.merger.norm.bias",
        WHOLE,
        no_fix="the model's files are at fault",
        model="incomplete",
    ),
    Case(
        "unbuilt-tensors",
        LORA,
        "the weight files hold 1 tensor outside the model class: mtp.fc.weight",
        LORA,
        model="unbuilt",
    ),
]
