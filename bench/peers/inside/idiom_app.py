"""Four rows a request by SQLAlchemy's ORM, as most services are written."""

import os
import uuid

from fastapi import Depends, FastAPI
from pydantic import BaseModel, ConfigDict
from sqlalchemy import ForeignKey, Identity
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

engine = create_async_engine(os.environ["IDIOM_DATABASE_URL"], pool_size=10, max_overflow=0)
sessions = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


class Base(DeclarativeBase):
    pass


class Mission(Base):
    __tablename__ = "mission"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    tenant: Mapped[int]
    body: Mapped[dict] = mapped_column(JSONB)


class Fact(Base):
    __tablename__ = "fact"
    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    mission: Mapped[uuid.UUID] = mapped_column(ForeignKey("mission.id"))
    seq: Mapped[int]
    type: Mapped[str]
    body: Mapped[dict] = mapped_column(JSONB)


class Audit(Base):
    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    mission: Mapped[uuid.UUID]
    actor: Mapped[str]
    action: Mapped[str]
    detail: Mapped[dict] = mapped_column(JSONB)


class Work(Base):
    __tablename__ = "work"
    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    mission: Mapped[uuid.UUID]
    kind: Mapped[str]


class Ask(BaseModel):
    model_config = ConfigDict(extra="allow")
    mission_type: str
    user_goal: str


async def session():
    async with sessions() as opened:
        yield opened


@app.post("/missions", status_code=202)
async def create(ask: Ask, opened: AsyncSession = Depends(session)) -> dict:
    made = Mission(tenant=7, body=ask.model_dump())
    opened.add(made)
    await opened.flush()
    opened.add(Fact(mission=made.id, seq=1, type="mission.accepted", body={"from": None, "to": "accepted"}))
    opened.add(Audit(mission=made.id, actor="principal", action="missions.create", detail={"ip": "127.0.0.1"}))
    opened.add(Work(mission=made.id, kind="dispatch"))
    await opened.commit()
    return {"id": str(made.id), "state": "accepted"}
