"""The load-balancing loss of a mixture of experts: the one that TRL adds; where it is refused."""

import warnings

import pytest
import torch
from datasets import Dataset
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from diffdpo.errors import UserError
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.scoring.router import router_balance
from diffdpo.text.scoring.scorer import prove_head
from diffdpo.text.tokens.row_reader import RowSettings
from tests.text import factory
from tests.text.engine import OneStep
from tests.text.test_against_trl import QUIET, norm, trl


def experts(seed=0):
    torch.manual_seed(seed)
    config = Qwen3MoeConfig(
        vocab_size=271,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        router_aux_loss_coef=0.3,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
    )
    return Qwen3MoeForCausalLM(config)


def mixtral(seed=0):
    torch.manual_seed(seed)
    config = MixtralConfig(
        vocab_size=271,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        router_aux_loss_coef=0.3,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
    )
    return MixtralForCausalLM(config)


def sighted(seed=0):
    """An image–text model of such layers."""
    rope = {"rope_theta": 1e4, "rope_type": "default", "mrope_section": [2, 3, 3]}
    text = {**experts().config.to_dict(), "rope_parameters": rope | {"mrope_interleaved": True}}
    sight = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    sight |= {"out_hidden_size": 32, "deepstack_visual_indexes": [0]}
    torch.manual_seed(seed)
    config = Qwen3VLMoeConfig(text_config=text, vision_config=sight)
    made = Qwen3VLMoeForConditionalGeneration(config)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return made


@pytest.mark.parametrize(
    ("made", "weight"),
    [(experts, None), (experts, 0.0), (experts, 2.0), (mixtral, None), (sighted, None)],
)
def test_the_loss_is_the_one_that_trl_adds(tmp_path, made, weight):
    rows, words = Dataset.from_list(factory.pair_rows(4)), factory.tokenizer()
    config = trl.DPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        router_aux_loss_coef=weight,
        **QUIET,
    )
    trainer = trl.DPOTrainer(
        model=made(),
        ref_model=made(1),
        args=config,
        train_dataset=rows,
        processing_class=words,
    )
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = trainer._compute_loss(trainer.model, batch, False)
    theirs.backward()
    one = OneStep(made(), made(1))
    one.policy.balance = router_balance(one.policy.network, weight)
    loss, metrics = one.run(TextRows(rows, words, RowSettings(64)).items, beta=0.1)
    loss.backward()
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert norm(one.policy) == pytest.approx(norm(trainer.model), rel=1e-4)
    if weight == 0.0:
        assert "aux_loss" not in metrics
    else:
        assert metrics["aux_loss"].item() == pytest.approx(
            trainer._metrics["train"]["aux_loss"][-1], rel=1e-5
        )
        assert metrics["aux_loss"].item() > 1  # 1 is perfect balance, so it weighs in the loss


def test_prompts_are_not_shared_beside_it(capsys):
    one = OneStep(experts(), experts(1))
    one.policy.balance = router_balance(one.policy.network, None)
    prove_head(one.policy, "experts")
    assert not one.policy.can_share
    assert "load-balancing" in capsys.readouterr().out


def test_a_weight_without_experts_is_refused():
    assert router_balance(factory.model(), None) is None
    with pytest.raises(UserError, match="LlamaForCausalLM is no mixture of experts"):
        router_balance(factory.model(), 0.1)


def test_experts_whose_loss_is_unknown_are_refused_and_named():
    class Unknown(Qwen3MoeForCausalLM):
        """A class in a module without the function."""

    with pytest.raises(UserError, match=r"Unknown is not known here; --router_aux_loss_coef 0"):
        router_balance(Unknown(experts().config), None)
    assert router_balance(Unknown(experts().config), 0.0) is None
