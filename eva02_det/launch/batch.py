"""submitit's SLURM executor, which can also tell its batch script where SLURM is not installed."""

from submitit import SlurmExecutor


class BatchExecutor(SlurmExecutor):
    """`SlurmExecutor` with `text`."""

    @classmethod
    def affinity(cls) -> int:
        """Usable everywhere: what needs SLURM asks for it."""
        return 2

    def text(self, jobs: int) -> str:
        """The batch script of one job, or of an array of several."""
        if jobs > 1:
            self.parameters["map_count"] = jobs
        try:
            return str(self._make_submission_file_text(self._submitit_command_str, "text"))
        finally:
            self.parameters.pop("map_count", None)
