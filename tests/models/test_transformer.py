from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from assay.errors import ModelError
from assay.models.decoder import Cache, Decoder, EncoderDecoder, Memory, Sizes, causal, greedy
from assay.models.kernels import written_out
from assay.models.transformer import POSITIONS, Encoder

SMALL = Sizes(dim=16, num_heads=2, num_layers=2, num_hidden=24, max_length=12, dropout=0.3)


def sizes(positions: str) -> Sizes:
    return Sizes(dim=16, num_heads=2, num_layers=2, num_hidden=24, max_length=12, positions=positions)  # type: ignore[arg-type]


def ids(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(1, 20, (rows, length), generator=torch.Generator().manual_seed(seed))


def memory(seed: int = 3) -> Memory:
    states = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(seed))
    return Memory(states, torch.arange(5) < torch.tensor([5, 2, 4])[:, None])


def decoder(positions: str = "rotary", *, reads_memory: bool = False) -> Decoder:
    torch.manual_seed(0)
    return Decoder(20, sizes(positions), reads_memory=reads_memory).eval()


def test_encoder_equals_the_peer_in_pre_norm() -> None:
    """PyTorch's own layer, with our weights, our two norms and the last one."""
    torch.manual_seed(0)
    ours = Encoder(16, num_heads=2, num_layers=1, num_hidden=24, positions="none").eval()
    peer = nn.TransformerEncoderLayer(16, 2, 24, activation="gelu", batch_first=True, norm_first=True).eval()
    block = ours.blocks[0]
    attention = block.attention
    with torch.no_grad():
        for norm in (*block.norms, ours.norm):  # type: ignore[union-attr]
            nn.init.normal_(norm.weight, 1)
        for part in ("weight", "bias"):
            joined = [getattr(getattr(attention, name), part) for name in ("query", "key", "value")]
            getattr(peer.self_attn, f"in_proj_{part}").copy_(torch.cat(joined))
            getattr(peer.self_attn.out_proj, part).copy_(getattr(attention.join, part))  # type: ignore[union-attr]
            for mine, theirs in (
                (block.forward_layers.widen, peer.linear1),
                (block.forward_layers.narrow, peer.linear2),
            ):
                getattr(theirs, part).copy_(getattr(mine, part))
            for mine, theirs in zip(block.norms, (peer.norm1, peer.norm2), strict=True):  # type: ignore[arg-type]
                getattr(theirs, part).copy_(getattr(mine, part))
    inputs = torch.randn(3, 5, 16)
    seen = torch.arange(5) < torch.tensor([5, 1, 3])[:, None]
    inputs.requires_grad_(True)  # keeps the peer off its inference-only path
    expected = ours.norm(peer(inputs, src_key_padding_mask=~seen)) * seen[:, :, None]
    torch.testing.assert_close(ours(inputs, seen), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("positions", POSITIONS)
def test_order_matters_only_with_positions(positions: str) -> None:
    torch.manual_seed(0)
    model = Encoder(16, num_heads=2, num_layers=2, positions=positions, max_length=8).eval()  # type: ignore[arg-type]
    inputs, order = torch.randn(1, 6, 16), torch.tensor([3, 0, 5, 1, 4, 2])
    seen = torch.ones(1, 6, dtype=torch.bool)
    moved = (model(inputs[:, order], seen) - model(inputs, seen)[:, order]).abs().max().item()
    assert moved < 1e-5 if positions == "none" else moved > 1e-3


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("reads_memory", [False, True])
@pytest.mark.parametrize("kernel", ["fused", "written"])
def test_reading_by_cache_equals_reading_at_once(positions: str, reads_memory: bool, kernel: str) -> None:
    model, tokens = decoder(positions, reads_memory=reads_memory), ids(3, 9)
    given = memory() if reads_memory else None
    with torch.no_grad():
        whole = model(tokens, given)
        cache, found = Cache(), []
        for part in torch.split(tokens, [4, 1, 1, 3], dim=1):
            if kernel == "written":
                with written_out(model):
                    logits, cache = model.read(part, cache, given)
            else:
                logits, cache = model.read(part, cache, given)
            found.append(logits)
    assert cache.num_tokens == 9
    torch.testing.assert_close(torch.cat(found, dim=1), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("positions", POSITIONS)
def test_no_position_sees_what_follows(positions: str) -> None:
    model, tokens = decoder(positions), ids(2, 8)
    changed = tokens.clone()
    changed[:, 5] = changed[:, 5] % 19 + 1
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(after[:, :5], before[:, :5], rtol=0, atol=1e-6)
    assert ((after - before)[:, 5:].abs().amax(dim=2) > 1e-5).all(), "and every later one sees it"
    embedded = model.embedding(tokens).detach().requires_grad_(True)
    model.embedding.forward = lambda _: embedded  # type: ignore[method-assign]
    (gradient,) = torch.autograd.grad(model(tokens)[:, 3].sum(), embedded)
    assert torch.all(gradient[:, 4:] == 0)
    assert (gradient[:, :4].abs().amax(dim=2) > 0).all()


def test_padding_after_a_text_changes_nothing_before_it() -> None:
    torch.manual_seed(0)
    model = EncoderDecoder(20, 20, SMALL).eval()
    source, target = ids(2, 6, 1), ids(2, 5, 2)
    with torch.no_grad():
        plain = model(source, target)
        padded = model(nn.functional.pad(source, (0, 3)), nn.functional.pad(target, (0, 4)))
        torch.testing.assert_close(padded[:, :5], plain, rtol=0, atol=1e-5)
        other = source.clone()
        other[:, 0] = other[:, 0] % 19 + 1
        assert ((model(other, target) - plain).abs().amax(dim=2) > 1e-5).all(), "the source matters everywhere"


@pytest.mark.slow
def test_an_encoder_and_decoder_learn_to_reverse() -> None:
    torch.manual_seed(0)
    model = EncoderDecoder(12, 12, Sizes(dim=32, num_heads=4, num_layers=1, num_hidden=64, max_length=8, dropout=0.0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(250):
        source = torch.randint(2, 12, (64, 4), generator=generator)
        target = torch.cat([torch.ones(64, 1, dtype=torch.int64), source.flip(1)], dim=1)
        loss = nn.functional.cross_entropy(model(source, target[:, :-1]).flatten(0, 1), target[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    source = torch.randint(2, 12, (200, 4), generator=generator)
    told = greedy(model.decoder, torch.ones(200, 1, dtype=torch.int64), num_tokens=4, memory=model.remember(source))
    assert (told[:, 1:] == source.flip(1)).all(dim=1).float().mean() > 0.9


def test_greedy_takes_the_likeliest_and_stops() -> None:
    model, start = decoder(), ids(4, 2)
    told = greedy(model, start, num_tokens=6)
    with torch.no_grad():
        text = start
        for _ in range(6):
            text = torch.cat([text, model(text)[:, -1:].argmax(dim=2)], dim=1)
    assert torch.equal(told, text)
    stop = int(told[0, 3])
    ended = greedy(model, start, num_tokens=6, stop=stop)
    at = (told[0, 2:] == stop).int().argmax().item() + 2
    assert torch.equal(ended[0, : at + 1], told[0, : at + 1])
    assert torch.all(ended[0, at + 1 :] == 0)


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(ModelError, match="12 or fewer"):
        decoder()(ids(1, 13))
    with pytest.raises(ModelError, match="no memory to read"):
        decoder(reads_memory=True)(ids(3, 4))
    with pytest.raises(ModelError, match="cannot read"):
        decoder()(ids(3, 4), memory())
    with pytest.raises(ModelError, match="rotary, learned, none"):
        decoder("sinus")
    with pytest.raises(ModelError, match="8 or fewer"):
        Encoder(16, positions="learned", max_length=8)(torch.zeros(1, 9, 16), torch.ones(1, 9, dtype=torch.bool))
    assert causal(0, 3).tolist() == torch.ones(3, 3).tril().bool().tolist()
