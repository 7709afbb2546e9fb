"""Small models in training, and their checkpoints."""

import torch

from diffdpo.engine import checkpoint


def trained(optimizer_class, **options):
    """A little network after three steps."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 1))
    model[0].bias.requires_grad_(False)
    weights = [w for w in model.parameters() if w.requires_grad]
    optimizer = optimizer_class(weights, lr=0.1, **options)
    for _ in range(3):
        train_step(model, optimizer)
    return model, optimizer


def save(folder, model, optimizer, state):
    rest = {"settings": {}, "effective_batch": 2, "data": "d", "scaler": None}
    return checkpoint.write(folder, checkpoint.snapshot(model, optimizer, {**rest, **state}))


def go_on_alike(*pairs):
    """Whether models have the same weights after one more step of each."""
    for model, optimizer in pairs:
        train_step(model, optimizer)
    weights = zip(*(model.parameters() for model, _ in pairs), strict=True)
    return all(torch.equal(a, b) for a, b in weights)


def train_step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
