"""What the tests of workflows share."""

JOB = "job"
