"""The store on disk: one journal file and one head file per job."""
