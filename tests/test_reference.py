"""Adapters switched off: the same numbers as by the libraries' own switch, without its walk."""

import pytest
import torch
from peft import LoraConfig

from diffdpo.reference import AdapterOff
from tests import factory
from tests.text.factory import model


def adapted_unet():
    network = factory.unet(xl=False)
    network.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
    given = torch.randn(2, 4, 8, 8), torch.tensor([3, 800]), torch.randn(2, 5, 32)
    return network, lambda: network(*given).sample


def adapted_llama():
    network = model()
    network.add_adapter(LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    tokens = torch.arange(12)[None]
    return network, lambda: network(tokens).logits


@pytest.mark.parametrize("make", [adapted_unet, adapted_llama])
def test_the_reference_is_the_network_as_the_library_switches_its_adapters_off(make):
    torch.manual_seed(0)
    network, run = make()
    reference = AdapterOff()
    with torch.no_grad():
        policy = run()
        network.disable_adapters()
        wanted = run()
        network.enable_adapters()
        for _ in range(2):
            with reference.network(network) as frozen:
                assert frozen is network
                assert torch.equal(run(), wanted)
            assert torch.equal(run(), policy)
    assert not torch.equal(policy, wanted)


def test_adapters_are_on_again_after_a_failure_and_can_be_trained():
    network, run = adapted_unet()
    reference = AdapterOff()

    def broken(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        reference.score(broken, network, None)
    run().sum().backward()
    trained = [weight for name, weight in network.named_parameters() if "lora_" in name]
    assert trained
    assert all(weight.requires_grad and weight.grad is not None for weight in trained)


def test_another_network_has_its_own_layers():
    reference = AdapterOff()
    found = []
    for network, _ in (adapted_unet(), adapted_unet()):
        with reference.network(network):
            found.append(reference.layers(network))
    assert found[0]
    assert not set(map(id, found[0])) & set(map(id, found[1]))
