"""The two walks of the house, each in one test: a page to a loss, a problem to a gradient."""

from dataclasses import replace
from pathlib import Path

import torch

from openmimo.curate.corpus import make_corpus
from openmimo.curate.tag import TagStage
from openmimo.data.chat import Chat
from openmimo.data.mix import Mixture
from openmimo.data.pipeline import read_documents, run_pipeline, stages
from openmimo.data.shards import write_shard
from openmimo.data.tokenizer import train_tokenizer
from openmimo.engine.engine import Engine, EngineConfig
from openmimo.judge.pool import JudgePool
from openmimo.log import read_metrics
from openmimo.model.mimo import MiMo
from openmimo.recipes.nano import nano
from openmimo.rl.train import train
from openmimo.train.loss import next_token_loss
from openmimo.train.optim import OptimConfig, Optimizer
from openmimo.train.pretrain import seeded_model
from openmimo.train.step import TrainState, train_step

PAGE = """<html><head><title>Squares</title></head><body><nav><a href="/">home</a></nav><article><h1>Squares</h1>
<p>The square of a sum is <script type="math/tex">(a+b)^2 = a^2 + 2ab + b^2</script>, which we use below for numbers
that lie near a round one, so that nothing has to be multiplied by hand and the result is exact.</p>
<pre><code>def square(x):
    return x * x
</code></pre><p>It is often quicker than the long way, as the examples on this page show in some detail.</p>
</article></body></html>"""


def test_walk_one_page_to_one_loss(tmp_path: Path) -> None:
    recipe = nano()
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "squares.html").write_text(PAGE)
    (pages / "copy.html").write_text(PAGE.replace("home", "start"))
    listed = stages(recipe.data, held_out=["a problem nobody has seen"], tag=TagStage(0))
    funnel = run_pipeline(listed, [pages], tmp_path / "documents", seed=0)
    documents = [row for table in read_documents(funnel) for row in table.to_pylist()]
    assert len(documents) == 1 and documents[0]["cluster_size"] == 2
    text = documents[0]["text"]
    assert "$(a+b)^2 = a^2 + 2ab + b^2$" in text and "    return x * x" in text and "home" not in text
    assert '"domain"' in documents[0]["tags"]

    chat = Chat(train_tokenizer([text], 300))
    shard = write_shard([chat.encode(text)], tmp_path / "shard", "web", vocab_size=768)
    batch = Mixture({"web": shard}, seed=0).rows(2, 64, {"web": 1.0})
    model = seeded_model(MiMo(recipe.model), 0)
    state = TrainState(model, Optimizer(model, OptimConfig(kind="muon")))
    losses = [train_step(state, batch, next_token_loss(mtp_weight=0.3), learning_rate=1e-3)["loss"] for _ in range(5)]
    assert losses[-1] < losses[0] and state.tokens == 5 * 2 * 64


def test_walk_one_problem_to_one_gradient(tmp_path: Path) -> None:
    recipe = nano()
    corpus = make_corpus(recipe.corpus, 0)
    texts = [m["content"] for messages in corpus.sft for m in messages]
    chat = Chat(train_tokenizer(texts, 400))
    model = seeded_model(MiMo(replace(recipe.model, vocab_size=400)), 0)
    with torch.no_grad():  # a policy that mostly answers with one digit, so that groups differ
        template = chat.encode("\\boxed{")
        model.lm_head.weight *= 4.0
    engine = Engine(seeded_model(MiMo(replace(recipe.model, vocab_size=400)), 0), EngineConfig(max_model_len=128))
    problems = [p for p in corpus.rl if p.kind == "math"][:6]
    config = replace(recipe.rl, steps=2, batch_groups=1, num_rollouts=4, max_new_tokens=6, max_launch_factor=4)
    before = model.lm_head.weight.detach().clone()

    class Prefixed(Chat):
        """Opens the box for the policy: an untrained one would never find it."""

        def render_prompt(self, text: str) -> tuple[int, ...]:
            return super().render_prompt(text) + template

        def decode(self, token_ids):  # type: ignore[no-untyped-def]
            number = sum(token_ids) % 3  # three answers, so some samples agree and some do not
            return f"\\boxed{{{problems[0].answer if number == 0 else number + 100}}}"

    same = [replace(p, answer=problems[0].answer) for p in problems]
    with JudgePool(1, recipe.judge) as judge:
        state = train(
            model, same, config, chat=Prefixed(chat.tokenizer), engine=engine, judge=judge, seed=0,
            out=tmp_path, checkpoints=tmp_path / "ckpt",
        )  # fmt: skip
    rows = read_metrics(tmp_path, "rl")
    assert len(rows) == 2 and state.step >= 1
    assert any(row["groups"] == 1 and 0.0 < row["reward"] < 1.0 for row in rows)
    assert not torch.equal(before, model.lm_head.weight)
    assert engine.policy_version == 2
    assert all(
        torch.equal(a, b) for a, b in zip(engine.model.state_dict().values(), model.state_dict().values(), strict=True)
    )
    mtp = [n for n, p in model.named_parameters() if ".mtp_layers." in n and p.requires_grad]
    assert not mtp
