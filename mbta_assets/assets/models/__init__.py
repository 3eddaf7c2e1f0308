"""Group `models`: what is learned from the training set, the trees and the family of networks."""
