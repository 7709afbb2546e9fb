"""Flags that cannot work."""

from __future__ import annotations

from collections.abc import Callable

from tests.hostile.case import Bad, Material

Make = Callable[[Material], list[str]]


def image(*words: str) -> Make:
    """Image training with good data and model, and these flags."""

    def make(material: Material) -> list[str]:
        model, run = material.models(), material.folder / "run"
        base = ["--pretrained_model_name_or_path", model, "--dataset_name", material.pairs]
        return [*map(str, base), "--output_dir", str(run), "--report_to", "none", *words]

    return make


def text(*words: str) -> Make:
    """Text training with good data and model, and these flags."""

    def make(material: Material) -> list[str]:
        base = ["--model_name_or_path", material.lm, "--dataset_name", material.texts["pairs"]]
        run = material.folder / "run"
        return [*map(str, base), "--output_dir", str(run), "--report_to", "none", *words]

    return make


IMAGES = {
    "a seed beyond 64 bits": (["--seed", str(2**70)], "--seed must be at most"),
    "a seed in words": (["--seed", "lucky"], "--seed: invalid int value: 'lucky'"),
    "a number of 5,000 digits": (["--seed", "1" * 5000], "--seed: invalid int value: '1111"),
    "endless epochs": (["--num_train_epochs", "inf"], "--num_train_epochs must be a finite"),
    "1e300 epochs": (["--num_train_epochs", "1e300"], "--num_train_epochs must be at most"),
    "no epochs": (["--num_train_epochs", "0"], "--num_train_epochs must be above 0"),
    "a batch of 10^9": (["--train_batch_size", "1000000000"], "--train_batch_size must be at"),
    "accumulation of 10^9": (
        ["--gradient_accumulation_steps", "1000000000"],
        "--gradient_accumulation_steps must be at most",
    ),
    "a batch of 10^9 pairs of 12 rows": (
        ["--train_batch_size", "60000", "--gradient_accumulation_steps", "60000"],
        "one step would read each of the 12 rows 300,000,000 times",
    ),
    "10^8 draws": (["--reference_draws", "100000000"], "--reference_draws must be at most"),
    "10^8 timesteps": (["--timesteps_per_pair", "100000000"], "--timesteps_per_pair must be at"),
    "a rank of 10^9": (["--rank", "1000000000"], "--rank must be at most"),
    "a negative rank": (["--rank", "-1"], "--rank must be at least 1, got -1"),
    "pixels of a planet": (["--resolution", "1000000000"], "--resolution must be at most"),
    "beta1 above 1": (["--adam_beta1", "2"], "--adam_beta1 must be below 1, got 2.0"),
    "beta2 nan": (["--adam_beta2", "nan"], "--adam_beta2 must be a finite number"),
    "epsilon negative": (["--adam_epsilon", "-1"], "--adam_epsilon must be above 0"),
    "power nan": (["--lr_power", "nan"], "--lr_power must be a finite number"),
    "noise offset nan": (["--noise_offset", "nan"], "--noise_offset must be a finite number"),
    "perturbation inf": (
        ["--input_perturbation", "inf"],
        "--input_perturbation must be a finite number",
    ),
    "beta infinite": (["--beta_dpo", "inf"], "--beta_dpo must be a finite number"),
    "beta in words": (["--beta_dpo", "large"], "--beta_dpo: invalid float value: 'large'"),
    "beta none": (["--beta_dpo", "none"], "--beta_dpo: invalid float value: 'none'"),
    "auto beta without a reference": (
        ["--beta_dpo", "auto", "--loss_type", "mapo"],
        "--beta_dpo auto: the loss has no reference",
    ),
    "stored scores of no reference": (
        ["--reference_draws", "1", "--sft"],
        "--reference_draws: sft has no reference",
    ),
    "half a pair held out": (["--holdout", "2.5"], "--holdout 2.5: a number of pairs is whole"),
    "nothing held out": (["--holdout", "0"], "--holdout must be above 0"),
    "all held out": (["--holdout", "12"], "--holdout 12: there are 12 pairs; some must be left"),
    "the best of nothing": (["--keep_best"], "--keep_best: no pairs are held out to judge by"),
    "patience without a best": (
        ["--holdout", "2", "--early_stopping_patience", "2"],
        "--early_stopping_patience belongs to --keep_best",
    ),
    "a best by chance": (
        ["--keep_best", "--holdout", "2", "--metric_for_best_model", "luck"],
        "--metric_for_best_model 'luck' is unknown; known: loss",
    ),
    "drift ignored": (["--on_drift", "ignore"], "--on_drift 'ignore' is unknown; known: warn"),
    "drift without a reference": (
        ["--on_drift", "stop", "--loss_type", "mapo"],
        "--on_drift stop: the loss has no reference, from which drift is measured",
    ),
    "sampling in no steps": (
        ["--run_validation", "--num_inference_steps", "0"],
        "--num_inference_steps must be at least 1",
    ),
    "guidance nan": (["--guidance_scale", "nan"], "--guidance_scale must be a finite number"),
    "empty prompts above 1": (
        ["--proportion_empty_prompts", "1.5"],
        "--proportion_empty_prompts must be at most 1",
    ),
    "a null byte": (["--output_dir", "a\0b"], "--output_dir holds a null byte"),
    "an empty name": (["--output_dir", ""], "--output_dir is empty"),
    "a byte that is no text": (["--tracker_name", "\udcff"], r"--tracker_name '\\udcff' is not"),
    "a loss of text": (["--loss_type", "orpo"], "--loss_type orpo is defined on token"),
    "a loss misspelt": (
        ["--loss_type", "sigmod"],
        r"--loss_type 'sigmod' is unknown; known: sigmoid, ipo",
    ),
    "no target modules": (["--rank", "2", "--lora_target_modules", "nothing"], ".*nothing"),
    "offload of what is trained": (["--offload"], "--offload is for a frozen base under a LoRA"),
    "offload of compiled blocks": (
        ["--rank", "2", "--offload", "--torch_compile"],
        "--offload and --torch_compile exclude each other",
    ),
    "offload of nf4": (
        ["--rank", "2", "--offload", "--base_precision", "nf4"],
        "--offload: nf4 weights are made on the GPU and stay there",
    ),
    "a switch that is a word": (["--random_crop", "perhaps"], "--random_crop: 'perhaps' is"),
    "a word too many": (["--seed", "1", "2"], "stray word '2'"),
    "two exclusive flags": (["--use_8bit_adam", "--use_adafactor"], "--use_8bit_adam and"),
    "a flag of 3,000 letters": (["--" + "x" * 3000, "1"], "unknown flag --xxx"),
}

TEXTS = {
    "a folder of pictures that is missing": (
        ["--media_dir", "no/such/folder"],
        "--media_dir no/such/folder: no such folder",
    ),
    "pictures of more pixels than the most": (
        ["--image_min_pixels", 900, "--image_max_pixels", 400],
        "--image_min_pixels 900 is more than --image_max_pixels 400",
    ),
    "a gamma of nan": (["--simpo_gamma", "nan"], "--simpo_gamma must be a finite number"),
    "a weight of nan": (["--loss_weights", "nan"], "--loss_weights must be a finite number"),
    "an endless sft part": (["--rpo_alpha", "inf"], "--rpo_alpha must be a finite number"),
    "endless soft labels": (["--soft_label_scale", "inf"], "--soft_label_scale must be a finite"),
    "a rank of 10^7": (["--use_peft", "--lora_r", "10000000"], "--lora_r must be at most"),
    "weights that do not match": (["--loss_weights", "1", "2"], "--loss_weights: 2 weights for 1"),
    "a loss by another program's name": (
        ["--loss_type", "kto_pair"],
        "--loss_type kto_pair is kto, which takes pairs as well: --loss_type kto",
    ),
    "an option of another loss": (
        ["--alpha", "0.25"],
        "--alpha: loss sigmoid does not read it; these do: simpo, alphapo, cpo",
    ),
    "a margin of another loss": (
        ["--simpo_gamma", "1"],
        "--simpo_gamma: loss sigmoid does not read it; these do: simpo",
    ),
    "weights of labels for pairs": (
        ["--desirable_weight", "2"],
        "--desirable_weight: loss sigmoid does not read it; these do: kto",
    ),
    "weights of nothing": (
        ["--loss_type", "kto", "--desirable_weight", "0", "--undesirable_weight", "0"],
        "--desirable_weight and --undesirable_weight are both 0: nothing is learned",
    ),
    "a beta that nothing reads": (
        ["--loss_type", "sft", "--beta", "0.5"],
        "--beta: sft does not read it",
    ),
    "more than half of the labels flipped": (
        ["--label_smoothing", "0.7"],
        "--label_smoothing must be at most 0.5, got 0.7",
    ),
    "a reference of a loss without": (
        ["--loss_type", "simpo", "--ref_model_name_or_path", "a/b"],
        "--ref_model_name_or_path: loss simpo has no reference; leave it out",
    ),
    "a name of a data set that is empty": (
        ["--eval_strategy", "steps", "--eval_dataset_name", ""],
        "--eval_dataset_name is empty; give a value or leave it out",
    ),
    "a name that no file can have": (
        ["--eval_strategy", "steps", "--eval_dataset_name", "x" * 5000],
        r"x{79}…: too long for the name of a file",
    ),
    "a reference that never moves": (
        ["--sync_ref_model", "--max_train_steps", "2"],
        "--ref_model_sync_steps 512: the run has 2 steps, so that the reference never moves",
    ),
    "a rank of no LoRA": (["--lora_r", "4"], "--lora_r is about a new LoRA; add --use_peft"),
    "layers of no LoRA": (
        ["--lora_target_modules", "q_proj"],
        "--lora_target_modules is about a new LoRA; add --use_peft",
    ),
    "a pattern that is none": (
        ["--use_peft", "--lora_target_modules", "("],
        r"--lora_target_modules '\(' is no pattern \(missing \)",
    ),
    "one prompt for both, and one for each": (
        ["--padding_free", "--share_prefix"],
        "--padding_free: every completion then has its own prompt; leave --share_prefix out, or add"
        " --attn_implementation flex_attention",
    ),
    "held-out rows that nobody reads": (
        ["--eval_dataset_name", "rows"],
        "--eval_dataset_name: nothing is measured; add --eval_strategy steps or epoch",
    ),
    "a temperature without bound": (
        ["--loss_type", "discopop", "--discopop_tau", "2"],
        "--discopop_tau must be at most 1",
    ),
    "CPO's weight beside a reference": (
        ["--cpo_alpha", "1"],
        "--cpo_alpha is for losses without a reference",
    ),
    "one weight by two names": (
        ["--loss_type", "simpo", "--cpo_alpha", "1", "--rpo_alpha", "1"],
        "--rpo_alpha and --cpo_alpha are the same here; keep one",
    ),
    "a divergence that is not known": (
        ["--f_divergence_type", "renyi"],
        "--f_divergence_type 'renyi' is unknown; known: reverse_kl",
    ),
    "a divergence of a loss that reads more": (
        ["--loss_type", "nca_pair", "--f_divergence_type", "forward_kl"],
        "--f_divergence_type forward_kl: loss nca_pair does not read the margin",
    ),
    "a coefficient without its divergence": (
        ["--f_alpha_divergence_coef", "0.3"],
        "--f_alpha_divergence_coef belongs to --f_divergence_type alpha_divergence",
    ),
    "weights of pairs for single items": (
        ["--loss_type", "kto", "--use_weighting"],
        "--use_weighting weighs pairs; kto judges single items",
    ),
    "a tail beyond its pair": (
        ["--loss_type", "simpo", "--ld_alpha", "0.5"],
        "--ld_alpha is for losses of pairs with a reference; simpo is none",
    ),
    "weights of pairs that are sorted": (
        ["--loss_type", "aot", "--use_weighting"],
        "--use_weighting weighs single pairs; aot sorts those of a step",
    ),
    "soft labels of pairs that are sorted": (
        ["--loss_type", "aot_unpaired", "--soft_label_scale", "1"],
        "--soft_label_scale: aot_unpaired sorts pairs, and takes no soft labels",
    ),
    "BCO beside a loss without reference": (
        ["--loss_type", "simpo", "--pref_bco_weight", "0.5"],
        "--pref_bco_weight: BCO has a reference, the losses beside it not",
    ),
    "a schedule that follows a loss": (
        ["--lr_scheduler_type", "reduce_lr_on_plateau"],
        "--lr_scheduler 'reduce_lr_on_plateau' is unknown; known: linear, cosine",
    ),
    "an option that a schedule has not": (
        ["--lr_scheduler_kwargs", '{"min_lr": 1e-7}'],
        "--lr_scheduler_kwargs: linear: takes no min_lr; known: none",
    ),
    "a tail above 1": (["--ld_alpha", "1.5"], "--ld_alpha must be at most 1"),
    "two precisions": (["--bf16", "--fp16"], "--bf16 and --fp16 exclude each other"),
    "no tokens": (["--max_length", "0"], "--max_length must be at least"),
}

CASES = [
    *(Bad(n, "train_diffusion_dpo", image(*words), line) for n, (words, line) in IMAGES.items()),
    *(
        Bad(f"text, {n}", "train_text_dpo", text(*words), line)
        for n, (words, line) in TEXTS.items()
    ),
]
