"""A linear layer whose weight updates are products of two matrices."""

from torch import Tensor

from tera_pl.adapters.layer import AdapterLayer


class FactoredLayer(AdapterLayer):
    """A layer whose weight updates are the products of two factors.

    Args:
        base_layer: As in `AdapterLayer`.
        **kwargs: As in `AdapterLayer`.
    """

    def get_delta_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return the two factors whose product is the weight update of an adapter.

        Args:
            adapter_name: Its name.

        Returns:
            Two matrices of shape `(out_features, r)` and `(r, in_features)`, in float32 or wider.
        """
        raise NotImplementedError

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Multiply the two factors.

        Args:
            adapter_name: Its name.

        Returns:
            As in `AdapterLayer`.
        """
        left, right = self.get_delta_factors(adapter_name)
        return left @ right
