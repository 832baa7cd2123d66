"""Healthy runs of many kinds: model, optimizer, loader, loss."""

from types import SimpleNamespace

import torch
from sklearn.datasets import load_digits, load_wine
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from autotune import AutoTuner

IMAGES, DIGITS = (torch.tensor(part) for part in load_digits(return_X_y=True))
IMAGES = IMAGES.float() / 16


def batches_of(*tensors, size=64, **arguments):
    return DataLoader(TensorDataset(*tensors), size, shuffle=True, **arguments)


def made(model, optimizer, loader, loss, **arguments):
    return SimpleNamespace(
        model=model, optimizer=optimizer, loader=loader, loss=loss, arguments=arguments, tuner_arguments={}
    )


def mlp():
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10))
    return made(
        model,
        torch.optim.AdamW(model.parameters(), lr=1e-3),
        batches_of(IMAGES[:1400], DIGITS[:1400]),
        lambda batch: F.cross_entropy(model(batch[0]), batch[1]),
        validation=batches_of(IMAGES[1400:], DIGITS[1400:]),
    )


def convolutional():
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    return made(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4),
        batches_of(IMAGES.view(-1, 1, 8, 8), DIGITS),
        lambda batch: F.cross_entropy(model(batch[0]), batch[1], label_smoothing=0.1),
    )


class Encoder(nn.Module):
    def __init__(self, words=50, width=32):
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Parameter(0.02 * torch.randn(16, width))
        layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, words)

    def forward(self, ids):
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        return self.head(self.layers(self.words(ids) + self.places, mask=mask, is_causal=True))


def transformer():
    """Next words, from a batch that is a dict, as transformers' collators make it."""
    start = torch.randint(50, (512, 1))
    ids = (start + torch.arange(17) * torch.randint(1, 4, (512, 1))) % 50
    model = Encoder()

    def loss(batch):
        ids = batch.pop("ids")  # what a loop does to its own batch is its own affair
        return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    dataset = [{"ids": row} for row in ids]
    return made(
        model,
        torch.optim.AdamW(model.parameters(), lr=1e-3),
        DataLoader(dataset, 32, shuffle=True),
        loss,
    )


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 32, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def lstm():
    x = torch.randn(600, 12, 4)
    y = (x.sum((1, 2)) > 0).long()
    model = Recurrent()
    return made(
        model,
        torch.optim.Adam(model.parameters(), lr=3e-3),
        batches_of(x, y),
        lambda batch: nn.CrossEntropyLoss()(model(batch[0]), batch[1]),
    )


def autoencoder():
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 64))
    return made(
        model,
        torch.optim.Adam(model.parameters(), lr=1e-3),
        batches_of(IMAGES),
        lambda batch: F.mse_loss(model(batch[0]), batch[0]),
    )


def regression():
    x = torch.randn(800, 10)
    y = (x @ torch.randn(10, 1)).tanh() + 0.1 * torch.randn(800, 1)
    model = nn.Sequential(nn.Linear(10, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))
    return made(
        model,
        torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1),
        batches_of(x, y, size=32),
        lambda batch: F.mse_loss(model(batch[0]), batch[1]),
    )


class Variational(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))


def variational():
    """A loss of its own that draws, through parts of a model that is never called itself."""
    model = Variational()

    def loss(batch):
        mean, log_variance = model.encoder(batch[0]).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        misfit = F.binary_cross_entropy_with_logits(model.decoder(z), batch[0], reduction="sum")
        kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
        return (misfit + kl) / len(batch[0])

    return made(model, torch.optim.Adam(model.parameters(), lr=1e-3), batches_of(IMAGES), loss)


def fine_tuning():
    """A frozen part, of which the optimizer knows nothing, and a new head on it."""
    body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.BatchNorm1d(64))
    body.requires_grad_(False)
    model = nn.Sequential(body, nn.Linear(64, 10))
    return made(
        model,
        torch.optim.SGD(model[1].parameters(), lr=0.1),
        batches_of(IMAGES, DIGITS),
        lambda batch: F.cross_entropy(model(batch[0]), batch[1]),
    )


class Adapted(nn.Module):
    """A frozen layer and a low-rank change of it, whose second factor begins at 0."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(64, 64).requires_grad_(False)
        self.down = nn.Parameter(torch.randn(4, 64) / 8)
        self.up = nn.Parameter(torch.zeros(64, 4))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(torch.relu(self.frozen(x) + x @ self.down.T @ self.up.T))


def low_rank():
    model = Adapted()
    return made(
        model,
        torch.optim.AdamW(model.parameters(), lr=1e-3),
        batches_of(IMAGES, DIGITS),
        lambda batch: F.cross_entropy(model(batch[0]), batch[1]),
    )


def warming_up():
    """The first step has rate 0, and the optimizer a scheduler."""
    made_so = mlp()
    made_so.optimizer.param_groups[0]["lr"] = 1e-3
    scheduler = torch.optim.lr_scheduler.LambdaLR(made_so.optimizer, lambda step: min(1, step / 50))
    made_so.tuner_arguments = {"stateful": {"scheduler": scheduler}}
    return made_so


def wine():
    """Standardised tabular data, few of them."""
    x, y = load_wine(return_X_y=True)
    x = torch.tensor((x - x.mean(0)) / x.std(0)).float()
    model = nn.Sequential(nn.Linear(13, 32), nn.Tanh(), nn.Linear(32, 3))
    return made(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        batches_of(x, torch.tensor(y), size=32),
        lambda batch: F.nll_loss(model(batch[0]).log_softmax(1), batch[1]),
    )


def normalised():
    """Spectral norm, whose power iteration moves buffers in each forward pass; a critic's own loss."""
    norm = nn.utils.parametrizations.spectral_norm
    model = nn.Sequential(norm(nn.Linear(64, 64)), nn.LeakyReLU(0.2), norm(nn.Linear(64, 1)))

    def loss(batch):
        real, fake = model(batch[0]), model(torch.rand_like(batch[0]))
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    return made(model, torch.optim.Adam(model.parameters(), lr=2e-4), batches_of(IMAGES), loss)


def multi_label():
    x = torch.randn(500, 20)
    y = (x @ torch.randn(20, 6) > 1).float()
    model = nn.Sequential(nn.LayerNorm(20), nn.Linear(20, 64), nn.SiLU(), nn.Linear(64, 6))
    return made(
        model,
        torch.optim.RMSprop(model.parameters(), lr=1e-3),
        [{"x": x[i : i + 50], "y": y[i : i + 50]} for i in torch.randperm(10).mul(50).tolist()],
        lambda batch: F.binary_cross_entropy_with_logits(model(batch["x"]), batch["y"]),
    )


def residual_bytes():
    """A deeper network, of which each branch begins at 0, from bytes that the loss makes numbers of."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)
            nn.init.zeros_(self.b.weight)
            nn.init.zeros_(self.b.bias)

        def forward(self, x):
            return x + self.b(F.relu(self.a(x)))

    model = nn.Sequential(*(Block() for _ in range(6)), nn.LayerNorm(64), nn.Linear(64, 10))
    return made(
        model,
        torch.optim.AdamW(model.parameters(), lr=1e-3),
        batches_of((255 * IMAGES).byte(), DIGITS),
        lambda batch: F.cross_entropy(model(batch[0].float() / 127.5 - 1), batch[1]),
    )


HEALTHY = {
    make.__name__: make
    for make in (
        mlp,
        convolutional,
        transformer,
        lstm,
        autoencoder,
        regression,
        variational,
        fine_tuning,
        low_rank,
        warming_up,
        wine,
        normalised,
        multi_label,
        residual_bytes,
    )
}


def preflight(setup, folder, **arguments):
    """The report for a set-up."""
    tuner = AutoTuner(setup.model, setup.optimizer, folder=folder, mlflow=False, **setup.tuner_arguments)
    with tuner:
        return tuner.preflight(setup.loader, setup.loss, **{"seconds": 60, **setup.arguments, **arguments})
