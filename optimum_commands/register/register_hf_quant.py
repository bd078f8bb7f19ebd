"""Commands of ``hf-quant`` in Optimum's command line, which imports whatever lies in this namespace."""

from argparse import REMAINDER, ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class HfQuantCommand(BaseOptimumCLICommand):
    """``optimum-cli hf-quant quantize``, and every other command of ``hf-quant``."""

    COMMAND = CommandInfo(name="hf-quant", help="Quantize models with hf-quant: INT8, INT4 and mixed plans.")
    BEFORE: tuple[str, ...] = ()
    """Arguments that come before those that were given."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Take all arguments as they are, options and ``--help`` too: the command knows them."""
        parser.prefix_chars = "\0"
        parser.add_argument("arguments", nargs=REMAINDER)

    def run(self) -> None:
        """Run the command; the program ends with its status where that is not 0."""
        from hf_quant.cli.main import main

        main([*self.BEFORE, *self.args.arguments])


class HfQuantExportCommand(HfQuantCommand):
    """``optimum-cli export hf-quant``, which is ``hf-quant export``."""

    COMMAND = CommandInfo(name="hf-quant", help="Export models that hf-quant quantized, with the same codes.")
    BEFORE = ("export",)


REGISTER_COMMANDS = [HfQuantCommand, (HfQuantExportCommand, ExportCommand)]
