"""One model for all calls: sequences join and leave a batch at any step, in the order in which listeners need them."""
