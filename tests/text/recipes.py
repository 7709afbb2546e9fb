"""Files of settings in the shapes that TRL and alignment-handbook publish."""

from __future__ import annotations

TRL_CLI = """
model_name_or_path: user/model
datasets:
  - path: user/data
    name: default
    split: train_prefs
    columns: [chosen, rejected]
streaming: false
learning_rate: 5.0e-7
lr_scheduler_type: cosine
report_to: none
"""

# alignment-handbook at 925acdf (2025-07-29): Zephyr's two, SmolLM3's, Zephyr of ORPO.
ZEPHYR = """
model_name_or_path: user/sft
torch_dtype: null
dataset_mixture:
  datasets:
    - id: user/prefs
      config: default
      split: train_prefs
      columns:
        - chosen
        - rejected
      weight: 1.0
  seed: 0
dataset_num_proc: 12
bf16: true
beta: 0.01
do_eval: true
eval_strategy: "no"
gradient_accumulation_steps: 2
gradient_checkpointing: true
gradient_checkpointing_kwargs:
  use_reentrant: False
hub_model_id: zephyr
hub_private_repo: true
learning_rate: 5.0e-7
log_level: info
logging_steps: 10
lr_scheduler_type: cosine
max_length: 1024
max_prompt_length: 512
num_train_epochs: 1
optim: adamw_torch
output_dir: data/zephyr
per_device_train_batch_size: 8
per_device_eval_batch_size: 8
push_to_hub: false
report_to:
- tensorboard
- wandb
save_strategy: "steps"
save_steps: 100
save_total_limit: 1
seed: 42
warmup_ratio: 0.1
"""
QLORA = """
model_name_or_path: user/sft
use_peft: true
load_in_4bit: true
lora_r: 128
lora_alpha: 128
lora_dropout: 0.05
lora_target_modules: [q_proj, v_proj]
dataset_mixer:
  user/prefs: 1.0
dataset_splits:
- train_prefs
- test_prefs
optim: paged_adamw_32bit
eval_strategy: steps
eval_steps: 100
warmup_ratio: 0.1
"""
SMOLLM = """
model_name_or_path: user/sft
model_revision: it
dataset_name: user/prefs
eval_strategy: 'no'
hub_strategy: every_save
learning_rate: 1.0e-06
logging_strategy: steps
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs:
  min_lr_rate: 0.1
max_grad_norm: 0.2
beta: 0.05
loss_type: apo_zero
max_length: 24576
overwrite_output_dir: true
padding_free: true
report_to:
- wandb
save_steps: 0.5
use_liger_kernel: true
warmup_steps: 0.1
"""

# TRL's documentation of its command line, and alignment-handbook's SmolLM2.
TRL_MIXTURE = """
model_name_or_path: user/model
datasets:
  - path: user/data
    fraction: 0.75
  - path: user/others
    split: train_prefs
    columns: [prompt, chosen, rejected]
    fraction: 0.25
output_dir: out
"""
SMOLLM2 = """
model_name_or_path: user/sft
torch_dtype: null
dataset_mixture:
  datasets:
    - id: user/prefs
      config: default
      split: train_prefs
      columns:
        - chosen
        - rejected
      weight: 1.0
    - id: user/prefs
      config: default
      split: test_prefs
      columns:
        - chosen
        - rejected
      weight: 0.4
  test_split_size: 2
  seed: 0
dataset_num_proc: 1
bf16: true
beta: 0.5
do_eval: true
hub_private_repo: true
eval_strategy: steps
eval_steps: 100
gradient_accumulation_steps: 1
gradient_checkpointing: true
gradient_checkpointing_kwargs:
  use_reentrant: False
learning_rate: 1.0e-6
max_length: 1024
max_prompt_length: 512
optim: rmsprop
output_dir: data/smollm2
push_to_hub: false
seed: 42
warmup_ratio: 0.1
"""
