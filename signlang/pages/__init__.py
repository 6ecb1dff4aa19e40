"""What describes and what compares hands over parts; pages that stand by themselves go out."""
