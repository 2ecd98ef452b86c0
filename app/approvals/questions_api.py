"""Asking about an approval, and answering."""

from typing import Annotated
from uuid import UUID

from fastapi import Request, Response

from app.approvals import questions
from app.approvals.models import AnswerAsk, QuestionAsk, QuestionView
from app.db import WriteSession
from app.http import Door, Reply, Routes, once, writing
from app.http.replies import problem_reply
from app.policy import PolicyDecision, refusal

router = Routes(tags=["approvals"])


@router.post(
    "/v1/approvals/{approval_id}/questions",
    operation_id="askAboutApproval",
    status_code=201,
    response_model=QuestionView,
    summary="Ask about an approval",
)
async def ask(
    approval_id: UUID,
    ask: QuestionAsk,
    request: Request,
    door: Annotated[Door[WriteSession], writing("approvals.ask")],
) -> Response:
    """Puts a question about a pending approval to its requester, or to another who can answer: they get a notice.

    Whoever may decide it asks, or an operator, but nobody who took part. Nothing of the approval changes, and nobody has to wait: time,
    quorum, payload and version stay. At most 10 questions a person, 50 in all. One to
    somebody who is suspended, and for whom nobody answers, is refused.
    """

    async def run() -> Reply:
        made = await questions.ask(door.session, door.caller, approval_id, ask.question, ask.to)
        if isinstance(made, PolicyDecision):
            return problem_reply(request, refusal(made))
        return Reply(
            await questions.one(door.session, approval_id, made), 201, {"Location": f"/v1/approvals/{approval_id}"}
        )

    return await once(door, "approvals.ask", run)


@router.post(
    "/v1/approvals/{approval_id}/questions/{question_id}/answer",
    operation_id="answerQuestion",
    response_model=QuestionView,
    summary="Answer a question",
)
async def answer(
    approval_id: UUID,
    question_id: UUID,
    ask: AnswerAsk,
    request: Request,
    door: Annotated[Door[WriteSession], writing("approvals.answer")],
) -> Response:
    """Answers a question, once; whoever asked it gets a notice. Also when the approval has closed meanwhile: what is said late may
    be why a change is taken back.

    By whom it was put to, by the requester or whoever answers for them, or by an operator; never by whoever asked.
    """

    async def run() -> Reply:
        denied = await questions.answer(door.session, door.caller, approval_id, question_id, ask.answer)
        if denied is not None:
            return problem_reply(request, refusal(denied))
        return Reply(await questions.one(door.session, approval_id, question_id))

    return await once(door, "approvals.answer", run)
