"""Networks as Python source that needs torch alone: what the writers of the spaces share."""

import re
import textwrap

_WIDTH = 110

_PARTS = {
    "Norm": '''
class Norm(nn.BatchNorm2d):
    """Batch normalisation with a shift but no scale."""

    def __init__(self, channels: int):
        super().__init__(channels, momentum=0.2)
        self.weight.requires_grad_(False)
''',
    "convolution": '''
def convolution(
    inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """ReLU, convolution, normalisation. The map keeps its size at stride 1 and is halved at stride 2."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (dilation * (height // 2), dilation * (width // 2))
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False),
        Norm(outputs),
    )
''',
    "separable": '''
def separable(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """ReLU, a convolution of each channel alone, one across channels, normalisation."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(inputs, inputs, kernel, stride, kernel // 2, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        Norm(outputs),
    )
''',
    "separable_convolution": '''
def separable_convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution of each channel alone, then one across channels."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, kernel, stride, kernel // 2, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
    )
''',
    "Shrinking": '''
class Shrinking(nn.Module):
    """Half the resolution without losing every other pixel: two strided convolutions, one shifted by a pixel."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.straight = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.shifted = nn.Conv2d(inputs, outputs - outputs // 2, 1, stride=2, bias=False)
        self.norm = Norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]  # moved up and left
        return self.norm(torch.cat([self.straight(x), self.shifted(shifted)], 1))
''',
    "entry": '''
def entry(inputs: int, outputs: int, halve: bool = False) -> nn.Module:
    """Brings an input of a cell to the cell's filters and resolution."""
    if halve:
        return Shrinking(inputs, outputs)
    return nn.Identity() if inputs == outputs else convolution(inputs, outputs, 1)
''',
}  # in the order of the text; a part uses those above it


def module_of(description: str, body: str) -> str:
    """The module's text: description, imports, those of the shared parts that `body` uses, `body`."""
    used: list[str] = []
    for name in reversed(_PARTS):
        if any(re.search(rf"\b{name}\(", text) for text in (body, *(_PARTS[other] for other in used))):
            used.insert(0, name)
    classes = "\n\n".join([*(_PARTS[name].strip("\n") + "\n" for name in used), body.strip("\n") + "\n"])
    imports = ["import torch"] if "torch." in classes else []
    imports += ["from torch import Tensor, nn"]
    imports += ["from torch.nn import functional as F"] if re.search(r"\bF\.", classes) else []
    return f'"""{wrapped(description)}"""\n\n' + "\n".join(imports) + "\n\n\n" + classes


def wrapped(text: str, indent: int = 0) -> str:
    """For a docstring: lines of at most 110 columns."""
    return ("\n" + " " * indent).join(textwrap.wrap(text, _WIDTH - indent))


def indented(statements: list[str], levels: int) -> str:
    """Statements, some of more than one line, behind `levels` indents."""
    return "\n".join(textwrap.indent(statement, "    " * levels) for statement in statements)
