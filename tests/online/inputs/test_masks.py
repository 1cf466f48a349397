"""Action masks in recurrent PPO: the masked distribution, rollouts, updates, `predict` and bad masks."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import make_masked_proba_distribution
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from stable_baselines3.common.evaluation import evaluate_policy as evaluate_unmasked

from minrl.agents.ppo import RecurrentPPO
from minrl.data.masks.action_masks import additive, mask_size
from minrl.online.likelihood import distribution_of
from minrl.scan import without_fused_kernels
from tests.helpers.masked_world import Masked, drawn_masks, masked
from tests.helpers.recall import collected, recall, small

SPACES = [
    spaces.Discrete(4), spaces.Discrete(3, start=2), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3),
]  # fmt: skip
POLICIES = {"MlpPolicy": {}, "MlpLstmPolicy": {"lstm_hidden_size": 8}}


def model_of(space: Any, policy: str = "MlpPolicy", **options: Any) -> RecurrentPPO:
    settings: dict[str, Any] = {"n_steps": 12, "batch_size": 12, "n_epochs": 2, "seed": 0, "device": "cpu"}
    kwargs = {"width": 8} if policy == "MlpPolicy" else POLICIES[policy]
    return RecurrentPPO(policy, masked(space=space), policy_kwargs=kwargs, **{**settings, **options})


@pytest.mark.parametrize("space", SPACES)
def test_distribution_is_that_of_sb3_contrib(space: Any) -> None:
    policy = model_of(space).policy
    torch.manual_seed(0)
    latent, random = 3 * torch.randn(64, 8), np.random.default_rng(0)
    masks = torch.from_numpy(drawn_masks(space, random, 64))
    ours: Any = distribution_of(policy, latent, additive(space, masks))
    theirs: Any = make_masked_proba_distribution(space)
    logits = policy.action_net(latent)
    if isinstance(space, spaces.MultiBinary):  # theirs has a logit for each value of a bit
        logits = torch.stack([torch.zeros_like(logits), logits], dim=-1).flatten(1)
    theirs.proba_distribution(logits)
    theirs.apply_masking(masks)
    actions = ours.get_actions()
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.get_actions(deterministic=True).long(), theirs.get_actions(deterministic=True))
    gradient = torch.autograd.grad(ours.entropy().sum(), policy.action_net.bias)[0]
    assert gradient.isfinite().all()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("space", SPACES)
def test_rollouts_and_updates_are_masked_alike_in_both_paths(space: Any, policy: str) -> None:
    # The environment fails on a masked action. Ratios are 1 before the first step only if acting and the update mask
    # equally, and the compiled calls have to agree with torch's operations.
    models = [model_of(space, policy, ent_coef=0.01).learn(100, use_masking=True)]
    with without_fused_kernels():
        models.append(model_of(space, policy, ent_coef=0.01).learn(100))
    for model in models:
        assert model.rollout_buffer.masks is not None
        assert (model.rollout_buffer.masks != 0).any()
        assert model.policy.first_ratio_dev < 1e-5
    for ours, theirs in zip(*(model.policy.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_masks_that_allow_everything_change_nothing() -> None:
    class Free(Masked):
        def _draw(self) -> Any:
            seen = super()._draw()
            self.masks[:] = True
            return seen

    found = []
    for use_masking in (True, False):
        model = RecurrentPPO(
            "MlpPolicy", Free(), n_steps=12, batch_size=12, n_epochs=2, seed=0, policy_kwargs={"width": 8}
        )
        model.learn(24, use_masking=use_masking)
        found.append(torch.nn.utils.parameters_to_vector(model.policy.parameters()))
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("space", SPACES)
def test_predict_takes_allowed_actions_in_batches_and_alone(space: Any) -> None:
    model, random = model_of(space), np.random.default_rng(1)
    seen = random.normal(size=(40, 3)).astype(np.float32)
    masks = drawn_masks(space, random, 40)
    free, _ = model.predict(seen, deterministic=True)
    for deterministic in (True, False):
        chosen, _ = model.predict(seen, deterministic=deterministic, action_masks=masks)
        with without_fused_kernels():
            again, _ = model.predict(seen, deterministic=True, action_masks=masks)
        for row, (action, mask) in enumerate(zip(chosen, masks, strict=True)):
            world = Masked(space)
            world.reset(seed=0)
            world.masks = mask
            world.step(action)
            if deterministic:
                one, _ = model.predict(seen[row], deterministic=True, action_masks=mask.tolist())
                np.testing.assert_array_equal(one, action)
                np.testing.assert_array_equal(again[row], action)
    everything = np.ones((40, mask_size(space)))
    np.testing.assert_array_equal(model.predict(seen, deterministic=True, action_masks=everything)[0], free)


def test_evaluation_of_sb3_contrib_carries_the_state() -> None:
    # It drops the state that `predict` returns (2.9.2); actions must still be those of a carried one.
    model = model_of(spaces.Discrete(4))
    world, taken = masked(1), []

    def record(local: dict[str, Any], _: Any) -> None:
        taken.append((local["observations"].copy(), int(local["actions"][0])))

    mean, _ = evaluate_policy(model, world, 2, callback=record, warn=False)
    assert 0 <= mean <= 6
    with pytest.raises(AssertionError, match="is masked"):
        evaluate_unmasked(model, masked(1), 5, warn=False)
    world, state, starts = masked(1), None, np.ones(1, dtype=bool)
    seen = world.reset()
    for _, action in taken:
        masks = np.stack(world.env_method("action_masks"))
        chosen, state = model.predict(seen, state, starts, deterministic=True, action_masks=masks)
        assert chosen[0] == action
        seen, _, starts, _ = world.step(chosen)


def test_resumed_model_learns_as_the_one_that_went_on(tmp_path: Any) -> None:
    found = []
    for saves in (False, True):
        model = model_of(spaces.MultiDiscrete([2, 3]))
        model.learn(36)
        if saves:
            model.save(tmp_path / "model")
            model = RecurrentPPO.load(tmp_path / "model", masked(space=spaces.MultiDiscrete([2, 3])))
        else:
            model.set_env(masked(space=spaces.MultiDiscrete([2, 3])))
        model.learn(36, reset_num_timesteps=False)
        found.append(torch.nn.utils.parameters_to_vector(model.policy.parameters()))
    assert torch.equal(found[0], found[1])


def test_bad_masks_are_one_line() -> None:
    class Shaped(Masked):
        given: Any = None

        def action_masks(self) -> Any:
            return self.given

    cases = {
        r"has 4 flags, one for each choice": [True] * 3,
        r"row 0 allows no choice": [False] * 4,
        r"must give flags": ["a", "b", "c", [2]],
    }
    for message, given in cases.items():
        world = Shaped()
        world.given = given
        with pytest.raises(ValueError, match=message) as caught:
            RecurrentPPO("MlpPolicy", world, n_steps=12).learn(12)
        assert "\n" not in str(caught.value)
    two = model_of(spaces.MultiBinary(2))
    with pytest.raises(ValueError, match="row 1 allows no choice of component 1"):
        two.predict(np.zeros((2, 3), np.float32), action_masks=[[1, 1, 1, 1], [1, 1, 0, 0]])
    with pytest.raises(ValueError, match="have no choices to mask"):
        small(recall(space=spaces.Box(0, 1, (2,)))).learn(10, use_masking=True)
    with pytest.raises(ValueError, match="no method action_masks"):
        small().learn(10, use_masking=True)
    with pytest.raises(ValueError, match="has no choices to mask"):
        small(recall(space=spaces.Box(0, 1, (2,)))).predict(np.zeros((1, 3), np.float32), action_masks=[True])


def test_model_without_masks_collects_none() -> None:
    assert collected(small()).masks is None
