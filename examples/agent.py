"""An agent whose seventh step needs a person's approval.

python examples/agent.py run JOB [FOLDER]        runs it as far as it goes
python examples/agent.py approve JOB [FOLDER]    or reject; then run it again
python examples/agent.py fork JOB [FOLDER]       JOB-2: the same up to step 4, edited
"""

import sys

from milepost import CheckpointManager, errors

PLAN = ("search", "read", "compare", "outline", "draft", "check", "publish", "announce")
command, job, *folder = sys.argv[1:]
manager = CheckpointManager(folder[0] if folder else "checkpoints", actor="agent")


def model(task, notes):
    """Stand in for a language model: choose the next tool, from what is known."""
    return {"tool": PLAN[len(notes)], "about": notes[-1] if notes else task}


def use(tool, about):
    """Stand in for the tools."""
    print(f"  {tool}: {about}")
    return f"{tool} of {about}"


@manager.workflow("agent")
def agent(run, task):
    notes = []
    while len(notes) < len(PLAN):
        call = run.step("think", model, task, notes)
        if call["tool"] == "publish":
            try:
                run.approval("publish", {"text": notes[4]}, allow_self=True)
            except errors.Rejected as error:
                return f"not published: {error}"
        notes.append(run.step("act", use, **call))
    return notes[-1]


def decide(answer):
    (asked,) = manager.approvals(job_id=job)
    shown = manager.get_approval(asked.approval_id)
    print(f"{answer}: {shown.subject}")
    digest = shown.subject_digest
    manager.decide(asked.approval_id, answer, subject_digest=digest, actor="ann")


def fork():
    """Start another execution, with another outline, at the step after it."""
    edited = {"act#4": "an outline by hand"}
    known = manager.list_executions()
    source = next(e["execution_id"] for e in known if e["correlation_id"] == job)
    manager.fork_execution(source, f"{job}-2", before="think#5", changes=edited)


match command:
    case "run":
        outcome = manager.run(agent, job_id=job, task="durable steps")
        print(f"{job} is {outcome.status}: {outcome.result or outcome.waiting_on}")
    case "approve" | "reject":
        decide(command)
    case "fork":
        fork()
        print(f"{job}-2 begins after step 4 of {job}")
