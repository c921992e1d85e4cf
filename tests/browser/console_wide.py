"""A task with 77 labels, texts in two directions of writing, and a release that mixes some up."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from release_records import release_record

from flywheel.contracts.events import (
    LabelSettled,
    ReviewRequested,
    TrafficRecorded,
)
from flywheel.contracts.ids import new_id
from flywheel.contracts.layout import PREDICTIONS_FILE
from flywheel.contracts.release import Release
from flywheel.evaluation.answered import write_predictions
from flywheel.evaluation.metrics import measure
from flywheel.kinds import Choice
from flywheel.kinds.predictions import Prediction
from flywheel.settings import FlywheelSettings, TaskSettings
from storage.database import Database

WIDE = "intents"
# The intents of Banking77 (Casanueva et al. 2020), the usual task with many classes.
_INTENTS = """
activate_my_card age_limit apple_pay_or_google_pay atm_support automatic_top_up
balance_not_updated_after_bank_transfer balance_not_updated_after_cheque_or_cash_deposit
beneficiary_not_allowed cancel_transfer card_about_to_expire card_acceptance card_arrival
card_delivery_estimate card_linking card_not_working card_payment_fee_charged
card_payment_not_recognised card_payment_wrong_exchange_rate card_swallowed cash_withdrawal_charge
cash_withdrawal_not_recognised change_pin compromised_card contactless_not_working country_support
declined_card_payment declined_cash_withdrawal declined_transfer
direct_debit_payment_not_recognised disposable_card_limits edit_personal_details exchange_charge
exchange_rate exchange_via_app extra_charge_on_statement failed_transfer fiat_currency_support
get_disposable_virtual_card get_physical_card getting_spare_card getting_virtual_card
lost_or_stolen_card lost_or_stolen_phone order_physical_card passcode_forgotten
pending_card_payment pending_cash_withdrawal pending_top_up pending_transfer pin_blocked
receiving_money refund_not_showing_up request_refund reverted_card_payment
supported_cards_and_currencies terminate_account top_up_by_bank_transfer_charge
top_up_by_card_charge top_up_by_cash_or_cheque top_up_failed top_up_limits top_up_reverted
topping_up_by_card transaction_charged_twice transfer_fee_charged transfer_into_account
transfer_not_received_by_recipient transfer_timing unable_to_verify_identity verify_my_identity
verify_source_of_funds verify_top_up virtual_card_not_working visa_or_mastercard
why_verify_identity wrong_amount_of_cash_received wrong_exchange_rate_for_cash_withdrawal
"""
INTENTS = tuple(_INTENTS.split())
TITLES = {intent: intent.replace("_", " ").capitalize() for intent in INTENTS}
MIXED_UP = (("card_arrival", "card_delivery_estimate"), ("exchange_rate", "exchange_charge"))
AT = datetime(2026, 1, 1, tzinfo=UTC)
RELEASE = f"{WIDE}-0a1b2c3d4e5f"


def wide_settings(workspace: Path) -> FlywheelSettings:
    task = TaskSettings.model_validate(
        {
            "title": "What the customer wants",
            "labels": INTENTS,
            "label_titles": TITLES,
            "training": {"base_model": "encoder"},
            "review": {"guideline": "Choose what the customer wants done."},
        }
    )
    return FlywheelSettings(workspace=workspace, tasks={WIDE: task})


def wide(database: Database, folder: Path) -> None:
    """One sample waiting for every label, and a release whose folder lies in ``folder``."""
    rnd = random.Random(3)
    with database.transaction() as tx:
        tx.intake.open([_waiting(rnd, index) for index in range(len(INTENTS))])
        held_out = _held_out(tx)
        predictions = [_prediction(rnd, sample, label) for sample, label in held_out]
        path = folder / RELEASE
        path.mkdir(parents=True)
        write_predictions(path / PREDICTIONS_FILE, predictions)
        tx.releases.add(_release(predictions))


def _waiting(rnd: random.Random, index: int) -> ReviewRequested:
    scores = {label: rnd.random() for label in INTENTS}
    total = sum(scores.values())
    return ReviewRequested(
        event_id=new_id(),
        occurred_at=AT,
        task=WIDE,
        sample_id=f"w-{index:02d}",
        content=f"My card has not come yet, sample {index}.",
        reason="unsure: card_arrival 0.41 or card_linking 0.38",
        priority=90 - index,
        inclusion_probability=0.5,
        audit=False,
        release=RELEASE,
        prediction=INTENTS[index],
        scores={label: value / total for label, value in scores.items()},
        confidence=0.4,
    )


def _held_out(tx: object) -> list[tuple[str, str]]:
    """Ten held-out samples of every label, kept with their texts."""
    traffic, settled, found = [], [], []
    for index in range(10 * len(INTENTS)):
        label, sample = INTENTS[index % len(INTENTS)], f"h-{index:03d}"
        traffic.append(
            TrafficRecorded(
                event_id=new_id(),
                occurred_at=AT,
                task=WIDE,
                sample_id=sample,
                content=f"Held out {index}: about {TITLES[label].lower()}",
                origin="ingest",
            )
        )
        settled.append(
            LabelSettled(
                event_id=new_id(),
                occurred_at=AT,
                task=WIDE,
                sample_id=sample,
                value=label,
                annotators=("ada",),
                agreement=1.0,
                inclusion_probability=1.0,
                audit=False,
            )
        )
        found.append((sample, label))
    tx.label_intake.record_samples(traffic)
    tx.label_intake.record_settlements(settled)
    return found


def _prediction(rnd: random.Random, sample: str, label: str) -> Prediction:
    answer = dict(MIXED_UP).get(label, label)
    if answer != label and int(sample[2:]) // len(INTENTS) >= 6:
        answer = label
    elif answer == label and rnd.random() < 0.05:
        answer = rnd.choice(INTENTS)
    return Prediction(sample_id=sample, label=label, prediction=answer, scores={answer: 0.8})


def _release(predictions: list[Prediction]) -> Release:
    metrics = measure(predictions, Choice(INTENTS), 0.95)
    return release_record(
        RELEASE,
        WIDE,
        dataset_version="d-1",
        created_at=AT + timedelta(hours=1),
        accuracy=metrics["accuracy"],
        accuracy_low=metrics["accuracy_low"],
        accuracy_high=metrics["accuracy_high"],
        size_bytes=23_000_000,
        expert_labels=700,
        gate_reason="first release",
        metrics=metrics,
    )
